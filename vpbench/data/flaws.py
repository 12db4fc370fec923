"""What is wrong with a data set, or was left out of it: sentences that stay with the rows of its runs."""

from __future__ import annotations

from collections.abc import Iterable


class Flaw(str):
    """A sentence that puts the numbers of a data set in doubt; other notes tell what was chosen, and are said once."""


def flaws_of(notes: Iterable[str]) -> tuple[Flaw, ...]:
    """The flaws among some notes."""
    return tuple(note for note in notes if isinstance(note, Flaw))
