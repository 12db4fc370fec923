"""What a suite fixes, and what a method's recipe says, as data."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, JsonValue, ValidationError

from vpbench.core.cards import card_names, first_error, read_card, read_toml
from vpbench.core.errors import UsageError
from vpbench.core.names import unknown
from vpbench.data.protocols import with_all_for_training, with_few_shots
from vpbench.data.raw import RawData
from vpbench.execution.spec import Frozen, Preprocess
from vpbench.training.recipe import Recipe

CUSTOM_SUITE = "custom"  # the protocol for --data


class SuiteCard(Frozen):
    """A suite: which data sets, and everything that is the same for all methods.

    ``training`` holds fields of :class:`Recipe`; a method's recipe may set others, and overrides these.
    ``precision`` ``auto`` means bf16 where the processor computes in it, else fp32; the run records which.
    """

    title: str
    description: str
    datasets: tuple[str, ...]
    backbone: str
    seeds: tuple[int, ...] = Field(min_length=1)
    preprocess: Preprocess
    fit: Literal["train", "train+val"] = Field("train", description="what the tested model is trained on; VTAB-1k: train+val")
    shots: int | None = Field(None, ge=1, description="training images per class; None: all")
    selection: Literal["last", "best_val"] = "last"
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    training: dict[str, JsonValue]
    source: str


class RecipeEntry(Frozen):
    """Values for the runs that ``suite``, ``dataset`` (one or several) and ``preset`` select (None: all), and their source."""

    suite: str | tuple[str, ...] | None = None
    dataset: str | tuple[str, ...] | None = None
    preset: str | None = None
    training: dict[str, JsonValue] = Field(default_factory=dict)
    options: dict[str, JsonValue] = Field(default_factory=dict)
    source: str = Field(min_length=1)

    def applies(self, suite: str, dataset: str, preset: str | None) -> bool:
        wanted = ((self.suite, suite), (self.dataset, dataset), (self.preset, preset))
        return all(
            condition is None or value == condition or (isinstance(condition, tuple) and value in condition)
            for condition, value in wanted
        )


class RecipeCard(Frozen):
    """``benchmarks/recipes/<method>.toml``: entries from the general to the special; later ones win."""

    recipe: tuple[RecipeEntry, ...]


def suite_names() -> list[str]:
    """All suites, sorted."""
    return card_names("suites")


def suite_card(name: str) -> SuiteCard:
    """A suite's card."""
    return read_card("suites", name, SuiteCard, "suite")


def as_protocol(raw: RawData, suite: SuiteCard) -> RawData:
    """A data set with the training images that the suite's protocol uses."""
    if suite.shots:
        raw = with_few_shots(raw, suite.shots)
    return with_all_for_training(raw) if suite.fit == "train+val" else raw


def recipe_entries(method: str, suite: str, dataset: str, preset: str | None) -> list[RecipeEntry]:
    """The entries of a method's recipe that apply; none where the method has no recipe file."""
    if method not in card_names("recipes"):
        return []
    try:
        card = RecipeCard.model_validate(read_toml("recipes", method))
    except ValidationError as error:
        raise UsageError(f"benchmarks/recipes/{method}.toml: {first_error(error)}") from error
    return [entry for entry in card.recipe if entry.applies(suite, dataset, preset)]


def resolve_recipe(suite: SuiteCard, entries: list[RecipeEntry], overrides: dict[str, Any]) -> tuple[Recipe, str]:
    """The recipe of a run and where its values come from: suite, then the method's entries, then the user.

    Raises:
        UsageError: for an unknown field or a value that does not fit.
    """
    for field in overrides:
        if field not in Recipe.model_fields:
            raise unknown("recipe field", field, Recipe.model_fields)
    values: dict[str, Any] = dict(suite.training)
    for entry in entries:
        values.update(entry.training)
    try:
        recipe = Recipe.model_validate({**values, **overrides})
    except ValidationError as error:
        raise UsageError(f"recipe.{first_error(error)}") from error
    sources = [suite.source, *(entry.source for entry in entries)]
    if overrides:
        sources.append("set by the user: " + ", ".join(f"{name}={value}" for name, value in sorted(overrides.items())))
    return recipe, "; ".join(dict.fromkeys(sources))


def method_options(entries: list[RecipeEntry]) -> dict[str, Any]:
    """Options that a recipe sets."""
    return {name: value for entry in entries for name, value in entry.options.items()}
