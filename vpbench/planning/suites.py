"""What a suite fixes, and what a method's recipe says, as data."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, JsonValue, ValidationError

from vpbench.core.cards import all_errors, card_names, first_error, read_toml
from vpbench.core.errors import DataError, UsageError
from vpbench.core.frozen_model import FrozenModel
from vpbench.core.names import unknown
from vpbench.data.protocols import with_all_for_training, with_few_shots
from vpbench.data.raw import RawData
from vpbench.spec.decoding_rule import OWN_DECODING
from vpbench.spec.recipe import Recipe
from vpbench.spec.run_spec import Precision, Preprocess

CUSTOM_SUITE = "custom"  # the protocol for --data
DEFAULT_PRESET = "default"  # what a recipe calls a method without a preset

# All that a part of a suite may say for itself.
PART_FIELDS = ("part_of", "title", "description", "datasets")


class SuiteCard(FrozenModel):
    """A suite: which data sets, and everything that is the same for all methods.

    ``training`` holds fields of :class:`Recipe`; a method's recipe may set others, and overrides these.
    ``precision`` ``auto`` means bf16 where the processor computes in it, else fp32; the run records which.

    A card need not repeat another one:

    - ``part_of = "vtab1k"``: some of that suite's data sets under its protocol. The card has a title, a description and
      ``datasets``; its runs are runs of the whole suite, stored under that name, so that nothing is run twice.
    - ``base = "vtab1k"``: a protocol of its own that starts from that card. What this card says replaces what the other
      says; the tables ``preprocess`` and ``training`` field by field.
    """

    title: str
    description: str
    part_of: str | None = Field(None, description="the suite that this one is a part of; its runs carry that name")
    base: str | None = Field(None, description="the suite whose card this one starts from")
    datasets: tuple[str, ...]
    backbone: str
    seeds: tuple[int, ...] = Field(min_length=1)
    preprocess: Preprocess
    fit: Literal["train", "train+val"] = Field("train", description="what the tested model is trained on; VTAB-1k: train+val")
    shots: int | None = Field(None, ge=1, description="training images per class; None: all")
    selection: Literal["last", "best_val"] = "last"
    precision: Precision | Literal["auto"] = "auto"
    training: dict[str, JsonValue]
    means: tuple[Literal["datasets", "groups"], ...] = Field(
        (), description="means that every table has for this suite: of all its data sets, of its groups' means; (): the table's"
    )
    source: str


class RecipeEntry(FrozenModel):
    """Values for the runs that ``suite``, ``dataset`` and ``preset`` select (each one or several; None: all), and their source.

    The preset ``default`` is the method without a preset. A part of a suite goes by the name of the whole suite.
    ``note`` says what a reader should know of the values, e.g. other ones that a source also gives; nothing is read from it.
    """

    suite: str | tuple[str, ...] | None = None
    dataset: str | tuple[str, ...] | None = None
    preset: str | tuple[str, ...] | None = None
    training: dict[str, JsonValue] = Field(default_factory=dict)
    options: dict[str, JsonValue] = Field(default_factory=dict)
    source: str = Field(pattern=r"\S", description="paper and table, repository and file, or 'assumption: ...'")
    note: str = ""

    def applies(self, suite: str, dataset: str, preset: str | None) -> bool:
        wanted = ((self.suite, suite), (self.dataset, dataset), (self.preset, preset or DEFAULT_PRESET))
        return all(
            condition is None or value == condition or (isinstance(condition, tuple) and value in condition)
            for condition, value in wanted
        )


class RecipeCard(FrozenModel):
    """``benchmarks/recipes/<method>.toml``: entries from the general to the special; later ones win."""

    recipe: tuple[RecipeEntry, ...]


def suite_names() -> list[str]:
    """All suites, sorted."""
    return card_names("suites")


def suite_card(name: str) -> SuiteCard:
    """A suite's card, with what it takes from the card of its ``base`` or of the suite it is ``part_of``.

    Raises:
        UsageError: for an unknown name (with a suggestion), or a card that is not valid.
    """
    if name not in suite_names():
        raise unknown("suite", name, suite_names(), "(vpbench list suites)")
    try:
        card = SuiteCard.model_validate(_suite_values(name))
        if decoding := card.preprocess.identity().keys() & {"orientation", "background"}:
            raise UsageError(f"benchmarks/suites/{name}.toml: preprocess.{min(decoding)} belongs on the cards of its data sets.")
        return card
    except ValidationError as error:
        raise UsageError(f"benchmarks/suites/{name}.toml: {all_errors(error)}") from error


def _suite_values(name: str, heirs: tuple[str, ...] = ()) -> dict[str, Any]:
    """What a card and the cards it starts from say together. ``heirs`` are the cards on the way here."""
    own = read_toml("suites", name)
    whole, base = own.get("part_of"), own.get("base")
    if not whole and not base:
        return own
    parent = whole or base
    file = f"benchmarks/suites/{name}.toml"
    if whole and base:
        raise UsageError(f"{file} has both base and part_of; keep one.")
    if parent not in suite_names() or parent in (name, *heirs):
        raise UsageError(f"{file} starts from '{parent}', which is no other suite.")
    inherited = _suite_values(parent, (name, *heirs))
    if inherited.get("part_of"):
        raise UsageError(f"{file} starts from '{parent}', which is itself a part; name '{inherited['part_of']}'.")
    if whole:
        if extra := [key for key in own if key not in PART_FIELDS]:
            raise UsageError(f"{file} is a part of '{whole}' and cannot set {extra[0]}; say base instead of part_of.")
        if strange := [data for data in own.get("datasets", ()) if data not in inherited["datasets"]]:
            raise UsageError(f"{file} is a part of '{whole}', which has no {strange[0]}.")
    both = [key for key in ("preprocess", "training") if isinstance(own.get(key), dict) and isinstance(inherited.get(key), dict)]
    tables = {key: {**inherited[key], **own[key]} for key in both}
    return {**inherited, "base": None, **own, **tables}


def preprocess_for(suite: SuiteCard, decoding: dict[str, str] | None, background: str | None = None) -> Preprocess:
    """The suite's preprocessing of a data set.

    Args:
        decoding: of the data set's card; None for a user's own images, which are made upright.
        background: ground under transparent pixels of own images, by default white.
    """
    own = {**OWN_DECODING, **({"background": background} if background else {})}
    return suite.preprocess.model_copy(update=own if decoding is None else decoding)


def apply_protocol(raw: RawData, suite: SuiteCard, stage: str | None = None) -> RawData:
    """A data set with the training images that the suite's protocol uses; a trial never trains on those for validation.

    Raises:
        DataError: when training and validation images are to be told apart, and the data set does not say which are which.
    """
    if raw.val_in_train and (suite.shots or suite.fit == "train") and stage != "search":
        raise DataError(f"{suite.title} trains without the validation images. {raw.note}")
    if suite.shots:
        raw = with_few_shots(raw, suite.shots)
    return with_all_for_training(raw) if suite.fit == "train+val" and stage != "search" else raw


def recipe_card(method: str) -> RecipeCard:
    """A method's recipe; one without entries where the method has no recipe file.

    Raises:
        UsageError: for a file that is no recipe.
    """
    if method not in card_names("recipes"):
        return RecipeCard(recipe=())
    try:
        return RecipeCard.model_validate(read_toml("recipes", method))
    except ValidationError as error:
        raise UsageError(f"benchmarks/recipes/{method}.toml: {all_errors(error)}") from error


def recipe_entries(method: str, suite: str, dataset: str, preset: str | None) -> list[RecipeEntry]:
    """The entries of a method's recipe that apply."""
    return [entry for entry in recipe_card(method).recipe if entry.applies(suite, dataset, preset)]


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
