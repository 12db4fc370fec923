"""Which runs belong together: filters, rows (a method with its options), sections (runs that may be compared)."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

import pandas as pd

from vpbench.catalog import resolve_method
from vpbench.core.errors import UsageError, VpbenchError
from vpbench.core.hashing import canonical_json
from vpbench.core.names import unknown
from vpbench.execution.protocol import SuiteCard, method_options, recipe_card, resolve_recipe, suite_card, suite_names

# Runs are comparable when these agree, and the digest of the data set too. ``images`` is what the suite trains on.
SECTION_KEYS = ("backbone", "weights", "weights_sha256", "image_size", "preprocess", "images", "selection", "epochs", "precision")


@dataclass(frozen=True)
class Filters:
    """Which runs to report; None keeps all. ``method`` without a preset keeps its presets too."""

    dataset: tuple[str, ...] | None = None
    suite: tuple[str, ...] | None = None
    backbone: tuple[str, ...] | None = None
    method: tuple[str, ...] | None = None
    seed: tuple[int, ...] | None = None

    def apply(self, runs: pd.DataFrame) -> pd.DataFrame:
        """The runs that pass.

        Raises:
            UsageError: for a value that no run has, or values that no run has together.
        """
        kept = pd.Series(True, index=runs.index)
        for field in fields(self):
            if (wanted := getattr(self, field.name)) is not None:
                kept &= _matches(runs[field.name], field.name, wanted)
        if not kept.any():
            raise UsageError("no run in the store passes all the filters together; drop one of them.")
        return runs[kept]


def _matches(values: pd.Series[Any], kind: str, wanted: tuple[Any, ...]) -> pd.Series[bool]:
    matches = pd.Series(False, index=values.index)
    for value in wanted:
        found = values == value
        if kind == "method":
            found |= values.str.partition(":")[0] == value
        if not found.any():
            raise unknown(kind, str(value), {str(known) for known in values.dropna()}, "Only what the store holds can be shown.")
        matches |= found
    return matches


def arrange(runs: pd.DataFrame, filters: Filters = Filters()) -> pd.DataFrame:
    """Filtered runs with four more columns: ``row``, ``images``, ``section`` and ``repeat``.

    ``row`` labels the method with its options; labels look at the whole store, so that a filter never renames a row.
    ``images`` says which images are trained on. ``section`` is a tuple that comparable runs share. ``repeat`` marks a run
    with the row, data set and seed of another (the same data set in two suites), which is no further seed.
    """
    runs = runs.assign(row=_row_labels(runs))
    runs = filters.apply(runs)
    trained_on = {suite: _training_images(known_suite(suite)) for suite in runs["suite"].unique()}
    runs = runs.assign(images=[trained_on[suite] for suite in runs["suite"]])
    runs = runs.assign(section=pd.Series(_sections(runs), index=runs.index, dtype=object))
    best_first = runs.assign(bad=runs["status"] != "ok").sort_values(["bad", "run_id"])
    return runs.assign(repeat=best_first.duplicated(["section", "row", "dataset", "seed"]))


def known_suite(name: str | None) -> SuiteCard | None:
    """The card of a run's suite; None for a suite that this version of vpbench does not have."""
    return suite_card(name) if name in suite_names() else None


def _training_images(suite: SuiteCard | None) -> str:
    """``train``, ``train+val`` or, say, ``4 images per class``."""
    if suite is None:
        return "train"
    return f"{suite.shots} image{'s' if suite.shots > 1 else ''} per class" if suite.shots else suite.fit


def of_section(runs: pd.DataFrame, section: tuple[Any, ...]) -> pd.DataFrame:
    """The runs of one section, as :func:`arrange` names it."""
    return runs[[own == section for own in runs["section"]]]


def _row_labels(runs: pd.DataFrame) -> list[str]:
    """``method``, or ``method (option=value)`` with what differs from its most common configuration in the suite.

    A recipe may give a method other options in another suite or for another data set; that is no variant that a user asked
    for, so values that are the recipe's count as equal.
    """
    records = runs[["method", "suite", "dataset", "method_version", "method_config", "recipe"]].to_dict("records")
    own = [_configuration(run) for run in records]
    keys = [(str(run["method"]), str(run["suite"])) for run in records]
    datasets = [str(run["dataset"]) for run in records]
    planned = {key: _planned(*key, {name for other, name in zip(keys, datasets) if other == key}) for key in set(keys)}
    texts = [
        canonical_json(_without(given, planned[key].get(name, {}))) for given, key, name in zip(own, keys, datasets, strict=True)
    ]
    frame = runs[["method", "suite", "started_at"]].assign(suite=runs["suite"].fillna(""), text=texts, place=range(len(runs)))
    base = {key: _most_common(group) for key, group in frame.groupby(["method", "suite"])}
    return [
        _label(method, own[place], json.loads(text), own[base[method, suite]], json.loads(texts[base[method, suite]]))
        for method, suite, text, place in zip(frame["method"], frame["suite"], texts, frame["place"], strict=True)
    ]


def _configuration(run: Mapping[Hashable, Any]) -> dict[str, Any]:
    """All that a user can set about a method and its recipe; epochs are left to the section."""
    version = {} if pd.isna(run["method_version"]) else {"version": int(run["method_version"])}
    return version | _settings(_json(run["method_config"]), _json(run["recipe"]))


def _settings(options: dict[str, Any], recipe: dict[str, Any]) -> dict[str, Any]:
    fitted = {name: value for name, value in recipe.items() if name != "epochs"}
    return {f"recipe.{name}" if name in options else name: value for name, value in fitted.items()} | options


def _planned(label: str, suite_name: str, datasets: Iterable[str]) -> dict[str, dict[str, Any]]:
    """What the recipe gives a method on each data set; {} for a suite or a method that is not known any more."""
    method, _, preset = label.partition(":")
    planned: dict[str, dict[str, Any]] = {}
    configs: dict[str, dict[str, Any]] = {}  # finding a method takes time, and many data sets have the same options
    try:
        suite, card = known_suite(suite_name), recipe_card(method)
        if suite is None:
            return {}
        for dataset in datasets:
            entries = [entry for entry in card.recipe if entry.applies(suite_name, dataset, preset or None)]
            options = method_options(entries)
            if (key := canonical_json(options)) not in configs:
                configs[key] = dict(resolve_method(label, options).config)
            planned[dataset] = _settings(configs[key], resolve_recipe(suite, entries, {})[0].model_dump(mode="json"))
    except VpbenchError:
        return {}
    return planned


def _without(own: dict[str, Any], planned: dict[str, Any]) -> dict[str, Any]:
    """``own`` with a mark in place of every value that is the recipe's."""
    return {name: {"recipe": True} if name in planned and planned[name] == value else value for name, value in own.items()}


def _most_common(group: pd.DataFrame) -> int:
    """Place of the first run of the most common configuration; of equally common ones the first that ran, as defaults come
    before variations."""
    counted = group.groupby("text", as_index=False).agg(
        count=("text", "size"), started=("started_at", "min"), place=("place", "min")
    )
    return int(counted.sort_values(["count", "started", "text"], ascending=[False, True, True])["place"].iloc[0])


def _label(method: str, own: dict[str, Any], text: dict[str, Any], base: dict[str, Any], usual: dict[str, Any]) -> str:
    """The method with what differs between its marked configuration and the usual one; the values are the unmarked ones."""
    names = [name for name in sorted({**own, **base}) if (name in text, text.get(name)) != (name in usual, usual.get(name))]
    different = [f"{name}={_value(own[name]) if name in own else '-'}" for name in names]
    return f"{method} ({', '.join(different)})" if different else method


def _value(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _json(text: Any) -> dict[str, Any]:
    value = json.loads(text) if isinstance(text, str) and text else {}
    return value if isinstance(value, dict) else {"value": value}


def _sections(runs: pd.DataFrame) -> list[tuple[Any, ...]]:
    """Per run: the values of ``SECTION_KEYS``, then ``""`` or, for a data set's rarer versions, its name and digest.

    Digests belong to a data set, not to a section: the most common version of each goes into the main section.
    """
    plain = runs[list(SECTION_KEYS)].convert_dtypes().astype(object)
    plain = plain.where(plain.notna(), None)
    plain["preprocess"] = [canonical_json(_json(text)) for text in plain["preprocess"]]
    keys = list(plain.itertuples(index=False, name=None))
    versions = list(zip(keys, runs["dataset"], runs["data_digest"].fillna(""), strict=True))
    usual: dict[tuple[Any, str], str] = {}
    for (key, dataset, data), _ in sorted(Counter(versions).items(), key=lambda item: (-item[1], item[0][2])):
        usual.setdefault((key, dataset), data)
    return [(*key, "" if data == usual[key, dataset] else f"{dataset} data {data[:8]}") for key, dataset, data in versions]
