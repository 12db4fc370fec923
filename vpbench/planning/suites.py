"""What a suite fixes, and what a method's recipe says, as data."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, JsonValue, ValidationError, model_validator

from vpbench.core.cards import card_file, card_files, card_names, first_error, read_toml, shown, validated
from vpbench.core.errors import DataError, UsageError
from vpbench.core.frozen_model import FrozenModel
from vpbench.core.hub import located
from vpbench.core.names import unknown
from vpbench.core.user_files import add_file
from vpbench.data.catalog import dataset_card, dataset_names
from vpbench.data.protocols import SEED as FIXED_DRAW
from vpbench.data.protocols import with_all_for_training, with_few_shots
from vpbench.data.raw import RawData
from vpbench.spec.decoding_rule import OWN_DECODING
from vpbench.spec.recipe import Recipe
from vpbench.spec.request import DEFAULT_SUITE
from vpbench.spec.run_spec import DEFAULT_TASK, PosResample, Precision, Preprocess

OWN_GROUP = "custom"  # of the user's data without a card
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

    All data sets of a suite have one ``task``; ``task_options`` are its options.

    ``data`` makes folders and parquet files of the user's data sets of the suite, beside those of ``datasets``.
    """

    title: str
    description: str
    part_of: str | None = Field(None, description="the suite that this one is a part of; its runs carry that name")
    base: str | None = Field(None, description="the suite whose card this one starts from")
    datasets: tuple[str, ...]
    task: str = Field(DEFAULT_TASK, description="what is predicted")
    task_options: dict[str, JsonValue] = Field({}, description="of the task, e.g. the head of a segmentation")
    methods: tuple[str, ...] = Field((), description="what is run when no method is named; (): as in the suite mini")
    data: dict[str, str] = Field(
        {}, description="name: folder, parquet file (a path is taken from the card's folder) or hf:owner/name"
    )
    backbone: str
    image_size: int | None = Field(None, ge=1, description="pixels, whatever the backbone's own size is; None: the backbone's")
    pos_resample: PosResample = Field("bicubic", description="how position embeddings are resampled to the image size")
    seeds: tuple[int, ...] = Field(min_length=1)
    preprocess: Preprocess
    fit: Literal["train", "train+val"] = Field("train", description="what the tested model is trained on; VTAB-1k: train+val")
    shots: int | None = Field(None, ge=1, description="training images per class, or in all where images have masks; None: all")
    draws: Literal["one", "per_seed"] = Field(
        "one", description="whether every run has the same few images, or every seed draws its own"
    )
    test_on: tuple[str, ...] = Field((), description="data sets that the trained models are tested on, too")
    selection: Literal["last", "best_val"] = "last"
    precision: Precision | Literal["auto"] = "auto"
    training: dict[str, JsonValue]
    means: tuple[Literal["datasets", "groups"], ...] = Field(
        (), description="means that every table has for this suite: of all its data sets, of its groups' means; (): the table's"
    )
    source: str

    @property
    def is_own(self) -> bool:
        """Whether this is the protocol for a user's own data, with no data sets of its own."""
        return not self.datasets

    @model_validator(mode="after")
    def _draws_few(self) -> Self:
        if self.draws == "per_seed" and self.shots is None:
            raise ValueError("draws = 'per_seed' needs shots, the number of images per class to draw")
        return self


class RecipeEntry(FrozenModel):
    """Values for the runs that ``suite``, ``dataset``, ``preset`` and ``task`` select (each one or several; None: all), and their
    source. An entry that names neither suite nor task is for classification.

    The preset ``default`` is the method without a preset. A part of a suite goes by the name of the whole suite.
    ``note`` says what a reader should know of the values, e.g. other ones that a source also gives; nothing is read from it.
    """

    suite: str | tuple[str, ...] | None = None
    dataset: str | tuple[str, ...] | None = None
    preset: str | tuple[str, ...] | None = None
    task: str | tuple[str, ...] | None = None
    training: dict[str, JsonValue] = Field(default_factory=dict)
    options: dict[str, JsonValue] = Field(default_factory=dict)
    source: str = Field(pattern=r"\S", description="paper and table, repository and file, or 'assumption: ...'")
    note: str = ""

    def applies(self, suite: str, dataset: str, preset: str | None, task: str = DEFAULT_TASK) -> bool:
        wanted = (
            (self.suite, suite), (self.dataset, dataset), (self.preset, preset or DEFAULT_PRESET),
            (self.task or (DEFAULT_TASK if self.suite is None else None), task),
        )  # fmt: skip
        return all(
            condition is None or value == condition or (isinstance(condition, tuple) and value in condition)
            for condition, value in wanted
        )


class RecipeCard(FrozenModel):
    """``recipes/<method>.toml``: entries from the general to the special; later ones win."""

    recipe: tuple[RecipeEntry, ...]


def suite_names() -> list[str]:
    """All suites, sorted."""
    return card_names("suites")


def suite_card(name: str) -> SuiteCard:
    """A suite's card, with what it takes from the card of its ``base`` or of the suite it is ``part_of``.

    Args:
        name: of the suite, or the path of its card, ``my.toml``; it is known by its name from then on.

    Raises:
        UsageError: for an unknown name (with a suggestion), or a card that is not valid.
    """
    name = suite_name(name)
    file = card_file("suites", name, "suite")
    values = _suite_values(name)
    card = validated(SuiteCard, values, file, _misplaced(values))
    return card.model_copy(update={"datasets": (*card.datasets, *card.data)})


def _misplaced(values: Mapping[str, Any]) -> list[tuple[tuple[str, ...], str]]:
    """Fields of a suite's card that say what other cards do, and why they cannot stay."""
    data, preprocess = (value if isinstance(value := values.get(name), dict) else {} for name in ("data", "preprocess"))
    found: list[tuple[tuple[str, ...], str]] = [
        (("data", name), f"data.{name} has the name of a data set; rename it")
        for name in data
        if name in values.get("datasets", ()) or name in dataset_names()
    ]
    decoding = [name for name in ("background", "orientation") if name in preprocess]
    return found + [(("preprocess", name), f"preprocess.{name} belongs on the cards of its data sets") for name in decoding]


def _from(card: Path, path: Any) -> Any:
    """A path that a card says; what is no text is left to validation."""
    return located(path, card.parent) if isinstance(path, str) else path


def suite_name(given: str) -> str:
    """``my`` for ``my.toml``, a suite from then on; another name as it is.

    Raises:
        UsageError: when there is no such file.
    """
    return add_file(given, "suites", "--suite") if given.endswith(".toml") else given


def group_of(suite: SuiteCard, dataset: str) -> str:
    """The group of one of a suite's data sets."""
    return OWN_GROUP if dataset in suite.data else dataset_card(dataset).group


def _suite_values(name: str, heirs: tuple[str, ...] = ()) -> dict[str, Any]:
    """What a card and the cards it starts from say together. ``heirs`` are the cards on the way here."""
    file = card_file("suites", name, "suite")
    own, place = read_toml(file), shown(file)
    whole, base = own.get("part_of"), own.get("base")
    if isinstance(own.get("data"), dict):  # a path is meant from the folder of the card that says it
        own["data"] = {data: _from(file, path) for data, path in own["data"].items()}
    if not whole and not base:
        return own
    parent = whole or base
    if whole and base:
        raise UsageError(f"{place} has both base and part_of; keep one.")
    if parent not in suite_names() or parent in (name, *heirs):
        raise UsageError(f"{place} starts from '{parent}', which is no other suite.")
    inherited = _suite_values(parent, (name, *heirs))
    if inherited.get("part_of"):
        raise UsageError(f"{place} starts from '{parent}', which is itself a part; name '{inherited['part_of']}'.")
    if whole:
        if extra := [key for key in own if key not in PART_FIELDS]:
            raise UsageError(f"{place} is a part of '{whole}' and cannot set {extra[0]}; say base instead of part_of.")
        given, paths = own.get("datasets", ()), inherited.get("data", {})
        if strange := [data for data in given if data not in inherited["datasets"] and data not in paths]:
            raise UsageError(f"{place} is a part of '{whole}', which has no {strange[0]}.")
        own = {**own, "datasets": [data for data in given if data not in paths]}
        own["data"] = {data: path for data, path in paths.items() if data in given}
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


def default_methods(suite: SuiteCard) -> tuple[str, ...]:
    """What is run on a suite when no method is named."""
    return suite.methods or suite_card(DEFAULT_SUITE).methods


def apply_protocol(raw: RawData, suite: SuiteCard, stage: str | None = None, seed: int | None = None) -> RawData:
    """A data set with the training images that the suite's protocol uses; a trial never trains on those for validation.

    Args:
        seed: of the run, which draws its images where the suite says so; None for the suite's first.

    Raises:
        DataError: when training and validation images are to be separate, and the data set does not say which is which.
    """
    if raw.val_in_train and (suite.shots or suite.fit == "train") and stage != "search":
        raise DataError(f"{suite.title} trains without the validation images. {raw.note}")
    if suite.shots:
        draw = FIXED_DRAW if suite.draws == "one" else suite.seeds[0] if seed is None else seed
        raw = with_few_shots(raw, suite.shots, draw)
    return with_all_for_training(raw) if suite.fit == "train+val" and stage != "search" else raw


def recipe_card(method: str) -> RecipeCard:
    """A method's recipe: vpbench's entries, then the user's; one without entries where the method has no recipe file.

    Raises:
        UsageError: for a file that is no recipe.
    """
    cards = [validated(RecipeCard, read_toml(file), file) for file in card_files("recipes", method)]
    return RecipeCard(recipe=tuple(entry for card in cards for entry in card.recipe))


def recipe_entries(
    method: str, suite: str, dataset: str, preset: str | None, task: str = DEFAULT_TASK
) -> list[RecipeEntry]:  # fmt: skip
    """The entries of a method's recipe that apply."""
    return [entry for entry in recipe_card(method).recipe if entry.applies(suite, dataset, preset, task)]


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
    for given, other in (("epochs", "iterations"), ("warmup_epochs", "warmup_fraction")):  # the other would count before it
        if given in overrides:
            values.pop(other, None)
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
