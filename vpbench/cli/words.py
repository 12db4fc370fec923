"""What is written on the command line in one word: lists with commas, and settings."""

from __future__ import annotations

from typing import Any


def words(text: str | None) -> list[str] | None:
    """``"vpt, insvp"`` to its words; None stays None."""
    return None if text is None else [word.strip() for word in text.split(",") if word.strip()]


def numbers(option: str, text: str | None, example: str) -> list[int] | None:
    """``"42,44"`` to its numbers; None stays None.

    Raises:
        UsageError: for anything else; it names ``option`` and shows the ``example``.
    """
    from vpbench.core.errors import UsageError

    try:
        return None if text is None else [int(word) for word in words(text) or []]
    except ValueError:
        raise UsageError(f"{option} {text}: write whole numbers with commas, e.g. {option} {example}.") from None


def settings_of(given: list[str]) -> dict[str, Any]:
    """``["vpt.prompt_length=50"]`` to a mapping; values are read as JSON where they are JSON, else as text."""
    from vpbench.core.errors import UsageError

    settings: dict[str, Any] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise UsageError(f"--set {text}: write METHOD.OPTION=VALUE, e.g. --set vpt.prompt_length=50.")
        settings[name] = value_of(value)
    return settings


def value_of(text: str) -> Any:
    """A value as JSON where it is JSON, with Python's spelling allowed; else as text."""
    import json

    try:
        return json.loads(text.replace("True", "true").replace("False", "false").replace("None", "null"))
    except json.JSONDecodeError:
        return text
