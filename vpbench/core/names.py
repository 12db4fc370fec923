"""Parts of messages: suggestions for unknown names, and counts."""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import SequenceMatcher

from vpbench.core.errors import UsageError

NEAR = 0.65  # difflib's ratio of two names, from which one of them is taken for the other, mistyped
NEAR_BEGINNING = 0.85  # the same of the beginning of a longer name, which is more often alike by chance
FEW = 5  # known names in a message, where a command lists all

# What lists all names of a kind.
LISTS = {
    "method": "vpbench list methods", "dataset": "vpbench list datasets", "suite": "vpbench list suites",
    "backbone": "vpbench list backbones", "search space": "vpbench list searches", "search": "vpbench list searches",
    "recipe field": "vpbench show recipe METHOD", "plot": "vpbench report --help", "key": "docs/experiments.md",
}  # fmt: skip


def unknown(kind: str, name: str, known: Iterable[str], hint: str = "", listed: str | None = None) -> UsageError:
    """The error for an unknown name: with the known name that was probably meant, else with those that there are.

    Args:
        kind: what the name stands for, e.g. ``"method"``.
        name: the unknown name.
        known: all valid names.
        hint: added at the end.
        listed: what lists all of many names; None: that of the kind, if any.
    """
    options = sorted(set(known))
    if close := closest(name, options):
        listing = f"Did you mean '{close}'?"
    else:
        listing = (
            f"Known: {_some(options, _lists(kind) if listed is None else listed)}." if options else f"There is no {kind} at all."
        )
    return UsageError(f"unknown {kind} '{shortened(name)}'. {listing}{' ' + hint if hint else ''}")


def _lists(kind: str) -> str:
    """What lists all names of a kind, such as ``method`` or ``option of vpt``; "" for nothing."""
    if place := re.fullmatch(r"option of (\w+)", kind):
        return f"vpbench show method {place[1]}"
    if place := re.fullmatch(r"(?:dataset|data set) of suite (\S+)", kind):
        return f"vpbench show suite {place[1]}"
    if place := re.fullmatch(r"argument of (vpbench\.\w+)", kind):
        return f"help({place[1]})"
    return LISTS.get(kind, "")


def _some(options: list[str], all_of_them: str) -> str:
    """The names, or a few of many where something else lists all."""
    if len(options) <= 2 * FEW or not all_of_them:
        return ", ".join(options)
    return f"{', '.join(options[:FEW])}, ... ({all_of_them})"


def closest(name: str, known: Iterable[str]) -> str | None:
    """The known name that was probably meant, if any is near."""
    return next(iter(nearest(name, known, 1)), None)


def nearest(name: str, known: Iterable[str], most: int) -> list[str]:
    """The known names that may be meant, the nearest first."""
    rated = [(*_likeness(name, option), option) for option in sorted(set(known))]
    near = sorted((entry for entry in rated if entry[0] >= NEAR), key=lambda entry: entry[:2], reverse=True)
    return [option for *_, option in near[:most]]


def _likeness(name: str, option: str) -> tuple[float, float]:
    """How near they are, and difflib's ratio of the two, which decides between equals."""
    ratio = SequenceMatcher(None, name, option).ratio()
    if sorted(name) == sorted(option):  # letters swapped, which difflib ranks behind a missing letter
        return 1.0, ratio
    is_part = len(name) > 2 and name in re.split(r"[._-]", option)  # svhn in vtab.svhn
    beginning = SequenceMatcher(None, name, option[: len(name)]).ratio() if len(name) > 5 else 0.0
    return max(ratio, NEAR if is_part or beginning >= NEAR_BEGINNING else 0.0), ratio


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
