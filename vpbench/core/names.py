"""Words in messages: a suggestion for an unknown name, and numbers of things."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

from vpbench.core.errors import UsageError


def unknown(kind: str, name: str, known: Iterable[str], hint: str = "") -> UsageError:
    """The error for a ``kind`` (say, "method") called ``name`` that is not among ``known``."""
    options = sorted(known)
    close = get_close_matches(name, options, n=1, cutoff=0.5)
    guess = f" Did you mean '{close[0]}'?" if close else ""
    listing = f" Known: {', '.join(options)}." if options else f" There is no {kind} at all."
    return UsageError(f"unknown {kind} '{name}'.{guess}{listing}{' ' + hint if hint else ''}")


def counted(number: int, thing: str) -> str:
    """``1 run``, ``2 runs``."""
    return f"{number} {thing}{'' if number == 1 else 's'}"
