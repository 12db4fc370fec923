"""From one word on the command line to a value: lists with commas, settings, times. Imports nothing heavy."""

from __future__ import annotations

import json
import math
import re
from operator import index
from typing import Any

from vpbench.core.errors import UsageError
from vpbench.core.names import shortened

DEEPEST = 20  # levels of lists and mappings in a setting
LONGEST_S = 1000 * 86400  # of a run, far below what timers take

_NUMBER = r"(\d+(?:\.\d+)?)"
_TIME = re.compile(rf"{_NUMBER}|(?:{_NUMBER}d)?(?:{_NUMBER}h)?(?:{_NUMBER}m)?(?:{_NUMBER}s)?")


def words(text: str | None) -> list[str] | None:
    """``"vpt, insvp"`` to its words; None stays None."""
    return None if text is None else [word.strip() for word in text.split(",") if word.strip()]


def names_of(option: str, text: str, example: str) -> list[str]:
    """``"vpt, insvp"`` to its words, as :func:`words`.

    Raises:
        UsageError: when there is none; it names ``option`` and shows the ``example``.
    """
    found = words(text)
    if not found:
        raise UsageError(f"{option} names nothing: write names with commas, e.g. {option} {example}.")
    return found


def whole_number(given: Any, least: int | None = None) -> int:
    """``"12"`` or 12 to 12.

    Raises:
        ValueError: for anything else, or less than ``least``; the message says what to give instead.
    """
    try:
        number = int(given) if isinstance(given, str) else index(given)
    except (TypeError, ValueError):
        number = None
    if number is None or isinstance(given, bool) or (least is not None and number < least):
        raise ValueError("take a whole number" + ("" if least is None else f" of at least {least}"))
    return number


def numbers(option: str, text: str | None, example: str) -> list[int] | None:
    """``"42,44"`` to its numbers; None stays None.

    Raises:
        UsageError: for anything else; it names ``option`` and shows the ``example``.
    """
    try:
        return None if text is None else [int(word) for word in words(text) or []]
    except ValueError:
        raise UsageError(f"{option} {text}: write whole numbers with commas, e.g. {option} {example}.") from None


def sigmas_of(text: str) -> list[float]:
    """The standard deviations of ``--noise``.

    Raises:
        UsageError: for anything but numbers.
    """
    return _floats("--noise", text, "0,0.1,0.2")


def scales_of(text: str) -> list[float]:
    """The ratios of ``--scales``.

    Raises:
        UsageError: for anything but numbers.
    """
    return _floats("--scales", text, "0.5,1,1.5")


def _floats(option: str, text: str, example: str) -> list[float]:
    try:
        found = [float(word) for word in words(text) or []]
    except ValueError:
        found = [math.nan]
    if not all(map(math.isfinite, found)):
        raise UsageError(f"{option} {text}: write numbers with commas, e.g. {option} {example}.")
    return found


def alphas_of(text: str) -> list[float]:
    """The shares of ``--wise-ft``.

    Raises:
        UsageError: for anything but numbers.
    """
    return _floats("--wise-ft", text, "0,0.25,0.5,0.75,1")


def settings_of(given: list[str]) -> dict[str, Any]:
    """``["vpt.prompt_length=50"]`` to a mapping; values are read as JSON where they are JSON, else as text.

    Raises:
        UsageError: for a text without a name or without ``=``.
    """
    return _assignments(given, "--set", "METHOD.OPTION=VALUE", "vpt.prompt_length=50")


def columns_of(text: str) -> dict[str, str]:
    """``"image=img,label=fine_label"`` to a mapping.

    Raises:
        UsageError: for anything but ``image``, ``label``, ``mask`` or ``split``, each at most once, with the name of a column.
    """
    found: dict[str, str] = {}
    for word in words(text) or []:
        role, _, name = (part.strip() for part in word.partition("="))
        if role not in ("image", "label", "mask", "split") or not name or role in found:
            raise UsageError(
                f"--columns {text}: write image=NAME,label=NAME,split=NAME (mask=NAME for label), or some of them, each once."
            )
        found[role] = name
    if not found:
        raise UsageError("--columns names no column: write e.g. --columns image=NAME,label=NAME.")
    return found


def executor_options_of(given: list[str]) -> dict[str, Any]:
    """``["partition=gpu"]`` to a mapping, as :func:`settings_of`."""
    return _assignments(given, "--executor-option", "NAME=VALUE", "partition=gpu")


def _assignments(given: list[str], option: str, form: str, example: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise UsageError(f"{option} {text}: write {form}, e.g. {option} {example}.")
        if name in found:
            raise UsageError(f"{option} {name} is given twice, as {json.dumps(found[name])} and as {value}: keep one.")
        found[name] = value_of(value)
    return found


def value_of(text: str) -> Any:
    """A value as JSON where it is JSON, with Python's spelling allowed; else as text."""
    try:
        value = json.loads(text.replace("True", "true").replace("False", "false").replace("None", "null"))
    except (ValueError, RecursionError):  # RecursionError: brackets by the thousand; ValueError: digits too
        return text
    return value if is_shallow(value) else text


def text_of(value: Any) -> str:
    """A value as :func:`value_of` reads it: JSON, or plain text where that cannot be taken for JSON."""
    return value if isinstance(value, str) and value_of(value) == value else json.dumps(value)


def is_shallow(value: Any, levels: int = DEEPEST) -> bool:
    """Whether lists and mappings are nested in so few levels only, as settings are; what handles them is recursive."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return levels > 0 and all(is_shallow(each, levels - 1) for each in inner)


def seconds(option: str, text: str | None) -> float | None:
    """``90``, ``90s``, ``30m``, ``1h30m`` or ``1d`` in seconds; None for ``never`` and for nothing.

    Raises:
        UsageError: for anything else; it names ``option``.
    """
    if text is None or text == "never":
        return None
    found = _TIME.fullmatch(text.strip())
    value = sum(float(number or 0) * unit for number, unit in zip(found.groups(), (1, 86400, 3600, 60, 1))) if found else 0
    if not value:
        raise UsageError(
            f"{option} {shortened(text)}: write a time such as 90s, 30m, 1h30m or 1d (a number alone: seconds), or never."
        )
    if value > LONGEST_S:
        raise UsageError(f"{option} {shortened(text)} is more than {LONGEST_S // 86400} days: write a shorter time, or never.")
    return value
