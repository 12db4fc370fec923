"""How a method is trained under a suite's protocol: every value, and where it comes from. Opens no data and imports no torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from vpbench.core.names import unknown
from vpbench.data.catalog import dataset_card
from vpbench.models.registry import method_class, resolve_method
from vpbench.planning.suites import (
    SuiteCard,
    method_options,
    preprocess_for,
    recipe_card,
    recipe_entries,
    resolve_recipe,
    suite_card,
    suite_name,
)
from vpbench.planning.user_settings import split_settings
from vpbench.reporting.describe import option_source
from vpbench.spec.recipe import Recipe
from vpbench.spec.request import DEFAULT_SUITE, Request

DEFAULT, USER = "default", "--set"
# What a suite fixes beside preprocessing and training, and which of that is left out where its card does not say it.
PROTOCOL = (
    "task", "task_options", "backbone", "image_size", "pos_resample", "precision", "fit", "shots", "draws", "selection", "seeds",
    "test_on",
)  # fmt: skip
LEFT_OUT = ("task_options", "shots", "draws", "test_on")


def describe_recipe(
    label: str, suite: str | None = None, dataset: str | None = None, settings: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The recipe of a method's runs: values, each with the short name of its source, and what these names stand for.

    Args:
        label: ``name`` or ``name:preset``.
        suite: name or card of the suite; None for the one that runs have when none is named.
        dataset: of the suite; None leaves out the values that are for single data sets.
        settings: as of ``--set``.

    Raises:
        UsageError: for a name or a value that does not fit.
    """
    asked = suite_name(suite or DEFAULT_SUITE)
    card = suite_card(asked)
    if dataset is not None and dataset not in card.datasets and (card.datasets or card.data):
        raise unknown(f"data set of {asked}", dataset, card.datasets)
    name, _, preset = label.partition(":")
    options, overrides = split_settings(Request(methods=(label,), suite=asked, settings=dict(settings or {})))
    entries = recipe_entries(name, card.part_of or asked, dataset or "", preset or None, card.task)
    given = {**overrides[""], **overrides.get(name, {})}
    recipe, _ = resolve_recipe(card, entries, given)
    chosen = resolve_method(label, {**method_options(entries), **options.get(name, {})})

    named = {f"recipe {place}": entry for place, entry in enumerate(entries, 1)}
    protocol = f"suite {asked}"
    training = _sources(protocol, card.training, {key: entry.training for key, entry in named.items()}, given)
    set_by_recipe = {key: entry.options for key, entry in named.items()}
    of_options = _sources("preset", _preset(label), set_by_recipe, options.get(name, {}))
    fields = recipe.model_dump(mode="json")
    for other in (field for field, value in fields.items() if value is None and field not in given):
        training.pop(other, None)  # a suite's value that gave way to one of the user's
    lines = [_line(field, value, training.get(field, DEFAULT)) for field, value in fields.items()]
    lines.append(_line("learning rate in use", recipe.peak_lr, "lr, batch_size and lr_reference_batch"))
    lines.append(_warmup(recipe))
    return {
        "method": label, "suite": asked, "dataset": dataset or "values for single data sets are left out",
        "recipe": lines,
        "options": [
            _line(option, value, of_options.get(option) or option_source(method_class(name), None, option) or DEFAULT)
            for option, value in chosen.config.items()
        ],
        "protocol": _protocol(card, protocol, dataset),
        "sources": _legend(card, protocol, named, bool(given or options)),
        "notes": [
            *(entry.note for entry in entries if entry.note), *_elsewhere(name, card, card.part_of or asked, preset, dataset)
        ],
    }  # fmt: skip


def _line(name: str, value: Any, source: str) -> dict[str, Any]:
    return {"name": name, "value": value, "source": source}


def _warmup(recipe: Recipe) -> dict[str, Any]:
    """How long the learning rate rises, of the two fields that may say so."""
    length, unit = (recipe.iterations, "iterations") if recipe.iterations else (recipe.epochs, "epochs")
    if recipe.warmup_fraction is None:
        return _line("warm-up in use", f"{recipe.warmup_epochs:g} epochs", "warmup_epochs")
    return _line("warm-up in use", f"{recipe.warmup_fraction * length:g} {unit}", f"warmup_fraction and {unit}")


def _preset(label: str) -> dict[str, Any]:
    name, _, preset = label.partition(":")
    return dict(method_class(name).presets[preset].settings) if preset else {}


def _sources(first: str, values: Iterable[str], entries: Mapping[str, Iterable[str]], user: Iterable[str]) -> dict[str, str]:
    """By field, what has set it last: the suite or a preset, the method's recipe, the user."""
    found = dict.fromkeys(values, first)
    for source, fields in entries.items():
        found |= dict.fromkeys(fields, source)
    return found | dict.fromkeys(user, USER)


def _protocol(card: SuiteCard, source: str, dataset: str | None) -> list[dict[str, Any]]:
    """What is the same for all methods of a suite."""
    own = dataset is not None and dataset in card.data
    decoding = None if own else dataset_card(dataset).decoding if dataset and dataset in card.datasets else {}
    preprocess = preprocess_for(card, decoding)
    of_data = {"orientation", "background"} if dataset else set()
    said = card.preprocess.model_fields_set
    lines = [
        _line(f"preprocess.{name}", value, f"data set {dataset}" if name in of_data else source if name in said else DEFAULT)
        for name, value in preprocess.model_dump(mode="json").items()
        if dataset or name not in ("orientation", "background")
    ]
    shown = [field for field in PROTOCOL if field in card.model_fields_set or field not in LEFT_OUT]
    values = card.model_dump(mode="json", include=set(shown))
    return lines + [_line(name, values[name], source if name in card.model_fields_set else DEFAULT) for name in shown]


def _legend(card: SuiteCard, suite: str, named: Mapping[str, Any], user: bool) -> list[dict[str, str]]:
    """What the short names of sources stand for."""
    found = {
        suite: card.source,
        **{key: entry.source for key, entry in named.items()},
        DEFAULT: "what vpbench takes where nothing is said",
    }
    if user:
        found[USER] = "set by the user"
    return [{"source": key, "stands_for": text} for key, text in found.items()]


def _elsewhere(name: str, card: SuiteCard, suite: str, preset: str, dataset: str | None) -> list[str]:
    """Which data sets have values of their own that are not shown."""
    if dataset is not None:
        return []
    entries = [entry for entry in recipe_card(name).recipe if entry.dataset is not None]
    sets = [[entry.dataset] if isinstance(entry.dataset, str) else list(entry.dataset or ()) for entry in entries]
    own = sorted(
        {each for entry, names in zip(entries, sets) for each in names if entry.applies(suite, each, preset or None, card.task)}
    )
    return [f"These data sets have values of their own, shown with --dataset: {', '.join(own)}."] if own else []
