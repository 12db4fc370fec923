"""Cards: small TOML files that describe a data set, a suite, a recipe, a search or a backbone.

vpbench's own are in ``benchmarks/``; those of the user in the folders of :mod:`vpbench.core.user_files`.
"""

from __future__ import annotations

import re
import tomllib
from collections import Counter
from collections.abc import Mapping, Sequence
from copy import deepcopy
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from vpbench.core.errors import UsageError
from vpbench.core.names import closest, counted, shortened, unknown
from vpbench.core.user_files import user_files

Card = TypeVar("Card", bound=BaseModel)


def card_names(folder: str) -> list[str]:
    """Names of the cards of a kind, vpbench's and the user's, sorted.

    Args:
        folder: below ``benchmarks/`` or a folder of the user's, e.g. ``"datasets"``.
    """
    return sorted({*_packaged(folder), *user_files(folder)})


def card_file(folder: str, name: str, word: str) -> Path:
    """The file of a card.

    Args:
        word: what a card of this folder is called in messages, e.g. ``"dataset"``.

    Raises:
        UsageError: for an unknown name (with a suggestion), or a name that two files have.
    """
    found = card_files(folder, name)
    if not found:
        raise unknown(word, name, card_names(folder))
    if len(found) > 1:
        raise UsageError(f"{word} '{name}' has two cards, {shown(found[0])} and {shown(found[1])}; rename yours.")
    return found[0]


def card_files(folder: str, name: str) -> list[Path]:
    """All files of a name: vpbench's card, then the user's."""
    packaged = _packaged(folder)
    return [*([packaged[name]] if name in packaged else []), *user_files(folder).get(name, [])]


def is_packaged(file: Path) -> bool:
    """Whether a card came with vpbench."""
    return file.is_relative_to(_folder(file.parent.name))


def shown(file: Path) -> str:
    """A card's file in messages: as in a checkout for those of vpbench."""
    return f"benchmarks/{file.parent.name}/{file.name}" if is_packaged(file) else str(file)


def read_card(folder: str, name: str, kind: type[Card], word: str) -> Card:
    """Reads and validates a card.

    Args:
        folder: e.g. ``"datasets"``.
        kind: the pydantic model of the card.
        word: what a card of this folder is called in messages, e.g. ``"dataset"``.

    Raises:
        UsageError: for an unknown name (with a suggestion), or a card that fails validation, with all that is wrong in it.
    """
    file = card_file(folder, name, word)
    return validated(kind, read_toml(file), file)


def read_toml(file: Path) -> dict[str, Any]:
    """The content of a card, not validated.

    Raises:
        UsageError: when it is not valid TOML, or cannot be read.
    """
    try:
        return deepcopy(_parsed(file.read_text(encoding="utf-8")))
    except OSError as error:
        raise UsageError(f"{shown(file)} cannot be read: {error.strerror or error}.") from error
    except ValueError as error:  # of the syntax, or of the encoding
        raise UsageError(f"{shown(file)} is not valid TOML: {error}") from error
    except RecursionError as error:  # brackets by the thousand
        raise UsageError(f"{shown(file)} is nested too deeply.") from error


@lru_cache(maxsize=512)  # a plan asks for the same suites and recipes hundreds of times
def _parsed(text: str) -> dict[str, Any]:
    return tomllib.loads(text)


def validated(
    kind: type[Card], values: Mapping[str, Any], file: Path, also: Sequence[tuple[tuple[str, ...], str]] = ()
) -> Card:  # fmt: skip
    """A card from its values.

    Args:
        values: of the file, and of other cards that it starts from.
        file: the card's, for messages.
        also: fields and what is wrong with them, which the model cannot know.

    Raises:
        UsageError: with the line and the field of everything that is wrong, in one line.
    """
    found: list[Any] = []
    try:
        card = kind.model_validate(values)
    except ValidationError as error:
        found = list(error.errors())
    if not found and not also:
        return card
    lacking = [_place(details) for details in found if details["type"] == "missing"]
    wrong = [(details["loc"], _in_words(details) + _guess(details, kind)) for details in found if details["type"] != "missing"]
    text = file.read_text(encoding="utf-8")
    problems = [f"it lacks {', '.join(lacking)}"] if lacking else []
    for place, what in (*wrong, *also):
        line = line_of(text, place)
        problems.append((f"line {line}: " if line else "") + what)
    raise UsageError(f"{shown(file)}: {'; '.join(dict.fromkeys(problems))}")


def line_of(text: str, field: Sequence[str | int]) -> int | None:
    """The line, from 1, where a TOML file says a field, or the table that it is in; None for neither."""
    wanted = [str(part) for part in field]
    table: list[str] = []
    tables: Counter[tuple[str, ...]] = Counter()
    found, depth = None, 0
    for number, line in enumerate(text.splitlines(), start=1):
        if header := re.match(r"\s*(\[\[?)\s*([^\[\]]+?)\s*\]", line):
            table = _keys(header[2])
            if header[1] == "[[":
                tables[tuple(table)] += 1
            for end in range(1, len(table) + 1):  # an array of tables: which one of them
                if count := tables[tuple(table[:end])]:
                    table = [*table[:end], str(count - 1), *table[end:]]
            path = table
        elif assigned := re.match(r"\s*((?:[\w-]+|\"[^\"]*\"|'[^']*')(?:\s*\.\s*(?:[\w-]+|\"[^\"]*\"|'[^']*'))*)\s*=", line):
            path = [*table, *_keys(assigned[1])]
        else:
            continue
        if path == wanted[: len(path)] and len(path) > depth:
            found, depth = number, len(path)
    return found


def _keys(dotted: str) -> list[str]:
    return [bare or quoted[1:-1] for quoted, bare in re.findall(r"(\"[^\"]*\"|'[^']*')|([\w-]+)", dotted)]


def packaged_file(folder: str, name: str) -> Path:
    """A file that ships beside vpbench's cards of ``folder``."""
    return _folder(folder) / name


def first_error(error: ValidationError) -> str:
    """The first of pydantic's errors in one line: field, message and input value."""
    return _in_words(error.errors()[0])


def _place(details: Any) -> str:
    return ".".join(str(part) for part in details["loc"]) or "it"


# Plain words for pydantic's commonest errors, by their type.
_WORDS = {"extra_forbidden": "there is no such field", "missing": "it is missing"}
_KINDS = {
    "float": "a number", "int": "a whole number", "bool": "true or false", "string": "a text", "list": "a list",
    "tuple": "a list", "dict": "a table", "model": "a table",
}  # fmt: skip


def _in_words(details: Any) -> str:
    given = details.get("input")
    return f"{_place(details)}: {_problem(details)}" + (
        f" (given: {_shown(given)})" if isinstance(given, str | int | float | bool | list) else ""
    )


def _problem(details: Any) -> str:
    kind = details["type"]
    if kind in _WORDS:
        return _WORDS[kind]
    if kind.endswith(("_type", "_parsing", "_from_float")) and (wanted := _KINDS.get(kind.split("_")[0])):
        return f"must be {wanted}"
    if kind == "too_short":
        return f"needs at least {counted(details['ctx']['min_length'], 'value')}"
    text = details["msg"].removeprefix("Value error, ").replace("Input should be", "must be", 1)
    return text.replace("greater than or equal to", "at least").replace("less than or equal to", "at most")


def _shown(given: Any) -> str:
    try:
        return shortened(repr(given), 200)
    except ValueError:  # a number of more digits than Python writes
        return "a number of thousands of digits"


def _guess(details: Any, kind: type[BaseModel]) -> str:
    """A suggestion for a field that a card does not have."""
    *place, name = details["loc"] or ("",)
    if details["type"] != "extra_forbidden" or (model := _model_at(kind, place)) is None:
        return ""
    close = closest(str(name), model.model_fields)
    return f". Did you mean '{close}'?" if close else ""


def _model_at(kind: type[BaseModel], place: Sequence[str | int]) -> type[BaseModel] | None:
    """The model of a table within a card, of which ``kind`` is the model; None for one that has none, or several."""
    model: type[BaseModel] | None = kind
    for name in (part for part in place if isinstance(part, str)):
        found = set() if model is None or name not in model.model_fields else _models_in(model.model_fields[name].annotation)
        (model,) = found if len(found) == 1 else (None,)
    return model


def _models_in(annotation: Any) -> set[type[BaseModel]]:
    """The models in a type, such as that of ``tuple[Recipe, ...] | None``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return {annotation}
    return {model for part in get_args(annotation) for model in _models_in(part)}


def _packaged(folder: str) -> dict[str, Path]:
    place = _folder(folder)
    if not place.is_dir():  # of a kind that is the user's alone
        return {}
    return {file.name.removesuffix(".toml"): file for file in place.iterdir() if file.name.endswith(".toml")}


def _folder(name: str) -> Path:
    return Path(str(files("vpbench.benchmarks") / name))
