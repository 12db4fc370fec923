"""Cards: small TOML files that describe a data set, a suite, a recipe or a backbone."""

from __future__ import annotations

import tomllib
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from vpbench.core.errors import UsageError
from vpbench.core.names import shortened, unknown

Card = TypeVar("Card", bound=BaseModel)


def card_names(folder: str) -> list[str]:
    """Names of the cards in ``benchmarks/<folder>``, sorted."""
    return sorted(entry.name.removesuffix(".toml") for entry in _folder(folder).iterdir() if entry.name.endswith(".toml"))


def read_card(folder: str, name: str, kind: type[Card], word: str) -> Card:
    """Reads and validates a card.

    Args:
        folder: below ``benchmarks/``, e.g. ``"datasets"``.
        kind: the pydantic model of the card.
        word: what a card of this folder is called in messages, e.g. ``"dataset"``.

    Raises:
        UsageError: for an unknown name (with a suggestion) or a card that fails validation.
    """
    if name not in card_names(folder):
        raise unknown(word, name, card_names(folder), f"(vpbench list {folder})")
    try:
        return kind.model_validate(read_toml(folder, name))
    except ValidationError as error:
        raise UsageError(f"benchmarks/{folder}/{name}.toml: {all_errors(error)}") from error


def read_toml(folder: str, name: str) -> dict[str, Any]:
    """The content of a card, not validated.

    Raises:
        UsageError: when it is not valid TOML.
    """
    try:
        return tomllib.loads((_folder(folder) / f"{name}.toml").read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # of the syntax, or of the encoding; or brackets by the thousand
        raise UsageError(f"benchmarks/{folder}/{name}.toml is not valid TOML: {error}") from error


def packaged_file(folder: str, name: str) -> Path:
    """A file that ships beside the cards of ``folder``."""
    return Path(str(_folder(folder) / name))


def first_error(error: ValidationError) -> str:
    """The first of pydantic's errors in one line: field, message and input value."""
    return _in_words(error.errors()[0])


def all_errors(error: ValidationError) -> str:
    """All of pydantic's errors in one line, for a file that somebody writes: missing fields together, then the others."""
    missing = [_place(details) for details in error.errors() if details["type"] == "missing"]
    others = [_in_words(details) for details in error.errors() if details["type"] != "missing"]
    return "; ".join([*([f"it lacks {', '.join(missing)}"] if missing else []), *others])


def _place(details: Any) -> str:
    return ".".join(str(part) for part in details["loc"]) or "it"


def _in_words(details: Any) -> str:
    text = details["msg"].removeprefix("Value error, ")
    given = details.get("input")
    return f"{_place(details)}: {text}" + (
        f" (given: {_shown(given)})" if isinstance(given, str | int | float | bool | list) else ""
    )


def _shown(given: Any) -> str:
    try:
        return shortened(repr(given), 200)
    except ValueError:  # a number of more digits than Python writes
        return "a number of thousands of digits"


def _folder(name: str) -> Any:
    return files("vpbench.benchmarks") / name
