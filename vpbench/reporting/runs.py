"""Which runs belong together: filters, rows (a method with its options), sections (runs that may be compared)."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache
from typing import Any

import numpy as np
import pandas as pd

from vpbench.core.errors import UsageError, VpbenchError
from vpbench.core.hashing import canonical_json
from vpbench.core.names import unknown
from vpbench.models.registry import method_registry, resolve_method
from vpbench.planning.suites import SuiteCard, method_options, recipe_card, resolve_recipe, suite_card, suite_names
from vpbench.reporting.definition import Line
from vpbench.reporting.settings import search_in, settings_in

# Runs are comparable when these agree, and the digest of the data set too. ``images`` is what the suite trains on.
SECTION_KEYS = ("backbone", "weights", "weights_sha256", "image_size", "preprocess", "images", "selection", "epochs", "precision")


Names = str | Iterable[str] | None


@dataclass(frozen=True)
class Filters:
    """Which runs to report; None keeps all. ``method`` without a preset keeps its presets too."""

    dataset: tuple[str, ...] | None = None
    suite: tuple[str, ...] | None = None
    backbone: tuple[str, ...] | None = None
    method: tuple[str, ...] | None = None
    seed: tuple[int, ...] | None = None

    @classmethod
    def of(cls, dataset: Names, suite: Names, backbone: Names, method: Names, seed: int | None) -> Filters:
        """What a user asks for: one name, names with commas between them, or a list."""
        seeds = None if seed is None else (seed,)
        return cls(_names_in(dataset), _names_in(suite), _names_in(backbone), _names_in(method), seeds)

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


def _names_in(given: Names) -> tuple[str, ...] | None:
    """One by one; None for no filter."""
    if given is None:
        return None
    parts = given.split(",") if isinstance(given, str) else given
    return tuple(part.strip() for part in parts if part.strip())


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


def arrange(runs: pd.DataFrame, filters: Filters = Filters(), lines: Sequence[Line] = ()) -> pd.DataFrame:
    """Filtered runs with four more columns: ``row``, ``images``, ``section`` and ``repeat``.

    ``row`` labels the method with its options; labels look at the whole store, so that a filter never renames a row. A run
    that a line takes has the line's label instead of the method's name.
    ``images`` says which images are trained on. ``section`` is a tuple that comparable runs share. ``repeat`` marks a run
    with the row, data set and seed of another (the same data set in two suites), which is no further seed.
    """
    runs = runs.assign(row=_row_labels(runs, lines))
    runs = filters.apply(runs)
    trained_on = {suite: _training_images(known_suite(suite)) for suite in runs["suite"].unique()}
    runs = runs.assign(images=[trained_on[suite] for suite in runs["suite"]])
    runs = runs.assign(section=pd.Series(_sections(runs), index=runs.index, dtype=object))
    identity = runs[["section", "row", "dataset", "seed", "run_id"]].assign(bad=runs["status"] != "ok")
    best_first = identity.sort_values(["bad", "run_id"])
    return runs.assign(repeat=best_first.duplicated(["section", "row", "dataset", "seed"]))


@cache
def known_methods() -> frozenset[str]:
    """Methods that this version of vpbench has."""
    return frozenset(method_registry().names())


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


def _row_labels(runs: pd.DataFrame, lines: Sequence[Line]) -> list[str]:
    """``method``, or ``method (option=value)`` with what differs from its most common configuration in the suite.

    A recipe may give a method other options in another suite or for another data set; that is no variant that a user asked
    for, so values that are the recipe's count as equal.
    """
    columns = ["method", "suite", "dataset", "method_version", "method_config", "recipe", "search"]
    kind = runs.groupby(columns, dropna=False, sort=False).ngroup().to_numpy()  # many runs differ in nothing but the seed
    records = runs.iloc[np.unique(kind, return_index=True)[1]][columns].astype(object).to_dict("records")
    kinds = {tuple(map(str, run.values())): run for run in records}
    own_key = [tuple(map(str, run.values())) for run in records]
    keys = [own_key[number] for number in kind]
    own = {key: _configuration(run) for key, run in kinds.items()}
    datasets: dict[tuple[str, str], set[str]] = {}
    for method, suite, dataset, *_ in kinds:
        datasets.setdefault((method, suite), set()).add(dataset)
    planned = {key: _planned(*key, names) for key, names in datasets.items()}
    texts = {key: canonical_json(_without(own[key], planned[key[0], key[1]].get(key[2], {}))) for key in kinds}
    frame = pd.DataFrame({"method": [key[0] for key in keys], "suite": [key[1] for key in keys], "key": keys})
    frame = frame.assign(text=[texts[key] for key in keys], started_at=runs["started_at"].to_numpy(), place=range(len(keys)))
    base = {key: keys[place] for key, place in _most_common(frame).items()}
    labels = {}
    for key, run in kinds.items():
        usual = base[key[0], key[1]]
        different = _different(own[key], json.loads(texts[key]), own[usual], json.loads(texts[usual]))
        labels[key] = _label(str(run["method"]), settings_in(run["method_config"]), different, lines)
    return [labels[key] for key in keys]


def _label(method: str, config: dict[str, Any], different: dict[str, str], lines: Sequence[Line]) -> str:
    """The label of the first line that takes the run, else the method, and what else differs behind it."""
    for line in lines:
        if line.takes(method, config):
            method = line.label
            different = {name: value for name, value in different.items() if name not in line.options}
            break
    return f"{method} ({', '.join(f'{name}={value}' for name, value in different.items())})" if different else method


def _configuration(run: Mapping[Hashable, Any]) -> dict[str, Any]:
    """All that a user can set about a method and its recipe; epochs are left to the section.

    What a search has chosen, another value for every data set, is one setting: that it was chosen, and in which search.
    """
    version = {} if pd.isna(run["method_version"]) else {"version": int(run["method_version"])}
    settings = version | _settings(settings_in(run["method_config"]), settings_in(run["recipe"]))
    if search := search_in(run["search"]):
        for name in search["searched"]:
            settings.pop(name if name in settings else name.removeprefix("recipe."), None)
        settings["tuned"] = f"{search['space']}, {search['trials']} trials"
    return settings


def _settings(options: dict[str, Any], recipe: dict[str, Any]) -> dict[str, Any]:
    fitted = {name: value for name, value in recipe.items() if name != "epochs"}
    return {f"recipe.{name}" if name in options else name: value for name, value in fitted.items()} | options


def _planned(label: str, suite_name: str, datasets: Iterable[str]) -> dict[str, dict[str, Any]]:
    """What the recipe gives a method on each data set; {} for a suite or a method that is not known any more."""
    method, _, preset = label.partition(":")
    if method not in known_methods():
        return {}
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


def _most_common(frame: pd.DataFrame) -> dict[tuple[str, str], int]:
    """Per method and suite the place of the first run of the most common configuration; of equally common ones the first
    that ran, as defaults come before variations."""
    counted = frame.groupby(["method", "suite", "text"], as_index=False).agg(
        count=("text", "size"), started=("started_at", "min"), place=("place", "min")
    )
    best = counted.sort_values(["count", "started", "text"], ascending=[False, True, True]).drop_duplicates(["method", "suite"])
    return {(method, suite): int(place) for method, suite, place in zip(best["method"], best["suite"], best["place"])}


def _different(own: dict[str, Any], text: dict[str, Any], base: dict[str, Any], usual: dict[str, Any]) -> dict[str, str]:
    """What differs between a marked configuration and the usual one; the values are the unmarked ones."""
    names = [name for name in sorted({**own, **base}) if (name in text, text.get(name)) != (name in usual, usual.get(name))]
    names = [name for name in names if name in own or "tuned" not in own]  # what a search chose is told by its name
    return {name: _value(own[name]) if name in own else "-" for name in names}


def _value(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _sections(runs: pd.DataFrame) -> list[tuple[Any, ...]]:
    """Per run: the values of ``SECTION_KEYS``, then ``""`` or, for a data set's rarer versions, its name and digest.

    Digests belong to a data set, not to a section: the most common version of each goes into the main section.
    """
    plain = runs[list(SECTION_KEYS)].convert_dtypes().astype(object)
    plain = plain.where(plain.notna(), None)
    canonical = {text: canonical_json(settings_in(text)) for text in plain["preprocess"].unique()}
    plain["preprocess"] = [canonical[text] for text in plain["preprocess"]]
    keys = list(plain.itertuples(index=False, name=None))
    versions = list(zip(keys, runs["dataset"], runs["data_digest"].fillna(""), strict=True))
    usual: dict[tuple[Any, str], str] = {}
    for (key, dataset, data), _ in sorted(Counter(versions).items(), key=lambda item: (-item[1], item[0][2])):
        usual.setdefault((key, dataset), data)
    return [(*key, "" if data == usual[key, dataset] else f"{dataset} data {data[:8]}") for key, dataset, data in versions]
