"""Parts of messages: suggestions for unknown names, and counts."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

from vpbench.core.errors import UsageError


def unknown(kind: str, name: str, known: Iterable[str], hint: str = "") -> UsageError:
    """The error for an unknown name, with the closest known name as a suggestion.

    Args:
        kind: what the name stands for, e.g. ``"method"``.
        name: the unknown name.
        known: all valid names.
        hint: added at the end.
    """
    options = sorted(set(known))
    guess = f" Did you mean '{close}'?" if (close := closest(name, options)) else ""
    listing = f" Known: {', '.join(options)}." if options else f" There is no {kind} at all."
    return UsageError(f"unknown {kind} '{shortened(name)}'.{guess}{listing}{' ' + hint if hint else ''}")


def closest(name: str, known: Iterable[str]) -> str | None:
    """The known name that was probably meant, if any is close."""
    options = sorted(set(known))
    swapped = [option for option in options if sorted(option) == sorted(name)]  # which difflib ranks behind a missing letter
    return next(iter(swapped or get_close_matches(name, options, n=1, cutoff=0.5)), None)


def shortened(text: str, length: int = 60) -> str:
    """``text``, or its beginning where it is long."""
    return text if len(text) <= length else f"{text[: length - 3]}..."


def counted(number: int, thing: str) -> str:
    """``1 run``, ``2 runs``."""
    return f"{number} {thing}{'' if number == 1 else 's'}"


def quoted(names: Iterable[str], most: int = 5) -> str:
    """``'a', 'b' and 7 more``: the first names in their order, and how many follow."""
    known = list(names)
    shown = ", ".join(f"'{name}'" for name in known[:most])
    return f"{shown} and {len(known) - most} more" if len(known) > most else shown
