"""What is searched: ``searches/<name>.toml``, vpbench's or the user's, or a file by its path. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import product
from math import prod
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, JsonValue, ValidationError, model_validator

from vpbench.core.cards import card_file, card_names, first_error, read_toml, shown, validated
from vpbench.core.errors import UsageError
from vpbench.core.frozen_model import FrozenModel
from vpbench.core.hashing import digest
from vpbench.core.names import unknown
from vpbench.core.user_folders import user_path
from vpbench.models.registry import method_class, method_registry
from vpbench.spec.parsing import is_shallow
from vpbench.spec.recipe import Recipe

FOLDER = "searches"
MOST_VALUES = 1000  # of a parameter
MOST_POINTS = 10_000  # of a grid: every one is a run
RECIPE = "recipe."  # how the names of a recipe's fields begin

Point = dict[str, Any]  # values of one trial by parameter


class Range(FrozenModel):
    """All numbers from ``low`` to ``high``: whole ones when both are whole numbers, evenly on a log scale with ``log``."""

    low: int | float
    high: int | float
    log: bool = False

    @model_validator(mode="after")
    def _makes_sense(self) -> Range:
        if self.low >= self.high:
            raise ValueError(f"low {self.low} must be below high {self.high}")
        if self.log and self.low <= 0:
            raise ValueError(f"low {self.low} must be above 0 on a log scale")
        return self

    @property
    def whole(self) -> bool:
        return isinstance(self.low, int) and isinstance(self.high, int)


Parameter = tuple[JsonValue, ...] | Range


def _parameter(given: Any) -> Parameter:
    """A parameter by its own kind, so that the error names what is wrong with it."""
    if isinstance(given, Range | tuple):
        return given
    if isinstance(given, dict):
        if strange := [key for key in given if key not in Range.model_fields]:
            raise ValueError(str(unknown("field of a range", strange[0], Range.model_fields)))
        try:
            return Range.model_validate(given)
        except ValidationError as error:
            raise ValueError(first_error(error).removeprefix("it: ")) from error
    if not isinstance(given, list) or not given:
        raise ValueError("must be a list of values, or a table with low and high")
    if len(given) > MOST_VALUES:
        raise ValueError(f"has {len(given)} values; take {MOST_VALUES} at most, or a table with low and high")
    if repeated := [value for place, value in enumerate(given) if value in given[:place]]:
        raise ValueError(f"has {repeated[0]!r} twice")
    return tuple(given)


class SpaceCard(FrozenModel):
    """A search space.

    Names are those of ``--set``: ``recipe.lr`` is a field of every method's recipe, ``vpt.recipe.lr`` of VPT's alone,
    ``vpt.prompt_length`` an option of VPT; and ``prompt_length`` is an option that every searched method has to have.
    A parameter is a list of values, or ``{ low = 1e-4, high = 1.0, log = true }``, which a grid cannot have.
    """

    title: str
    description: str
    source: str = Field(pattern=r"\S", description="paper, repository and file, or 'assumption: ...'")
    sampler: Literal["grid", "tpe"] = Field("grid", description="unless --sampler says otherwise")
    trials: int | None = Field(None, ge=1, description="budget of tpe, unless --trials says otherwise")
    trial_epochs: int | None = Field(
        None, ge=1, description="of each trial, unless --trial-epochs says otherwise; else the recipe's"
    )
    settings: dict[str, JsonValue] = Field(default_factory=dict, description="the same in every trial")
    parameters: dict[str, Annotated[Parameter, BeforeValidator(_parameter)]] = Field(min_length=1)


class Space:
    """A space by its name, for one method after the other."""

    def __init__(self, name: str, card: SpaceCard) -> None:
        self.name, self.card = name, card

    def parameters(self, method: str) -> dict[str, Parameter]:
        """What is searched for a method, in the card's order; names are ``recipe.FIELD`` or an option's."""
        return _of_method(self.card.parameters, method)

    def settings(self, method: str) -> dict[str, Any]:
        """What is the same in all trials of a method; names as in :meth:`parameters`."""
        return _of_method(self.card.settings, method)

    def digest(self, method: str) -> str:
        """Identifies what is searched for a method and beside which settings, whatever the space is called."""
        hashed = {new: old for old, new in method_class(method).Config.former_names().items()}
        parameters = {
            hashed.get(name, name): value.model_dump() if isinstance(value, Range) else list(value)
            for name, value in self.parameters(method).items()
        }
        settings = {hashed.get(name, name): value for name, value in self.settings(method).items()}
        return digest({"parameters": parameters, "settings": settings})[:8]

    def size(self, method: str) -> int:
        """Points of the grid.

        Raises:
            UsageError: when a parameter is a range, or there are more points than anybody runs.
        """
        size = prod(len(values) for values in self._lists(method).values())
        if size > MOST_POINTS:
            raise UsageError(
                f"search space {self.name}: its grid has {size:,} points for {method}, and a grid may have {MOST_POINTS:,}: "
                "list fewer values, or say --sampler tpe --trials N."
            )
        return size

    def grid(self, method: str) -> list[Point]:
        """All combinations, the last parameter changing fastest."""
        lists = self._lists(method)
        return [dict(zip(lists, values)) for values in product(*lists.values())]

    def probes(self, method: str) -> list[Point]:
        """Few points that together have every listed value and both ends of every range, to check them all."""
        ends = {
            name: (value.low, value.high) if isinstance(value, Range) else value
            for name, value in self.parameters(method).items()
        }
        first = {name: values[0] for name, values in ends.items()}
        return [first, *({**first, name: value} for name, values in ends.items() for value in values[1:])]

    def _lists(self, method: str) -> dict[str, tuple[JsonValue, ...]]:
        parameters = self.parameters(method)
        for name, parameter in parameters.items():
            if isinstance(parameter, Range):
                raise UsageError(
                    f"search space {self.name}: {name} is a range, and a grid needs values: list them, or --sampler tpe."
                )
        return {name: values for name, values in parameters.items() if not isinstance(values, Range)}


def split(point: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Options of the method, and fields of the recipe."""
    options = {name: value for name, value in point.items() if not name.startswith(RECIPE)}
    return options, {name.removeprefix(RECIPE): value for name, value in point.items() if name.startswith(RECIPE)}


def space_names() -> list[str]:
    """The spaces that have a card, vpbench's and the user's, sorted."""
    return card_names(FOLDER)


def read_space(name: str) -> Space:
    """A space by its name, or by the path of a file that ends with ``.toml``.

    Raises:
        UsageError: when there is none, or something in it does not fit.
    """
    if not name.endswith(".toml"):
        if name not in space_names():
            raise unknown("search space", name, space_names(), "A file works too: --space my.toml.")
        return Space(name, _card(card_file(FOLDER, name, "search space")))
    path = user_path(name)
    return Space(path.stem, _card(path))


def _card(file: Path) -> SpaceCard:
    given = read_toml(file)
    if not is_shallow(given):
        raise UsageError(f"{shown(file)} is nested too deeply for a search space.")
    return validated(SpaceCard, given, file, list(_wrong_names(given)))


def _wrong_names(card: Mapping[str, Any]) -> Iterator[tuple[tuple[str, ...], str]]:
    """Parameters and settings that nothing has: the field of each, and what is wrong with its name."""
    tables = {key: card[key] for key in ("parameters", "settings") if isinstance(card.get(key), dict)}
    for key, table in tables.items():
        for name in table:
            try:
                _check_name(name)
            except UsageError as error:
                yield (key, name), f"{key}.{name}: {error}"
    for name in sorted(tables.get("parameters", {}).keys() & tables.get("settings", {}).keys()):
        yield ("settings", name), f"{name} is both a setting and a parameter; keep one"


def _check_name(name: str) -> None:
    """
    Raises:
        UsageError: for a field that no recipe has, an unknown method, or an option that it does not have.
    """
    owner, dot, rest = name.partition(".")
    if not dot:
        return  # an option of whatever methods are searched
    if owner != "recipe" and owner not in (methods := method_registry().names()):
        raise unknown("method", owner, [*methods, "recipe"])
    field = rest if owner == "recipe" else rest.removeprefix(RECIPE)
    if "." in field:
        raise UsageError("write recipe.FIELD, METHOD.recipe.FIELD, METHOD.OPTION or OPTION")
    if owner == "recipe" or rest.startswith(RECIPE):
        if field not in Recipe.model_fields:
            raise unknown("recipe field", field, Recipe.model_fields)
        return
    options = method_class(owner).Config
    if field not in options.model_fields and field not in options.former_names():
        raise unknown(f"option of {owner}", field, options.model_fields)


def _of_method(given: Mapping[str, Any], method: str) -> dict[str, Any]:
    """What of it concerns a method, by names without the method's."""
    found: dict[str, Any] = {}
    for name, value in given.items():
        owner, dot, rest = name.partition(".")
        if not dot or owner == "recipe":
            found.setdefault(name, value)  # what names the method says more
        elif owner == method:
            found[rest] = value
    return found
