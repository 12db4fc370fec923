"""The rows of a store as reports use them: loaded, filtered, and each run with the key of its row and of its section."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cache
from typing import Any

import numpy as np
import pandas as pd

from vpbench.core.errors import UsageError, VpbenchError
from vpbench.core.hashing import canonical_json
from vpbench.core.names import unknown
from vpbench.core.user_warning import warn
from vpbench.models.registry import method_registry, resolve_method
from vpbench.planning.suites import SuiteCard, method_options, recipe_card, resolve_recipe, suite_card, suite_names
from vpbench.reporting.definition import Line
from vpbench.reporting.keys import RowKey, SectionKey, split_name
from vpbench.reporting.scores import SCORE, with_scores
from vpbench.reporting.settings import decoding_in, options_of, search_in, settings_in
from vpbench.spec.decoding_rule import OWN_DECODING
from vpbench.spec.parsing import whole_number
from vpbench.spec.run_spec import DEFAULT_TASK
from vpbench.store.store import Store, as_frame

# By which runs are filtered, grouped into rows and sections, and described below a table.
_ABOUT = (
    *("run_id", "status", "error", "stage", "trained_on", "interpolation", "started_at"),
    *("method", "method_version", "method_config", "recipe", "recipe_source"),
    *("search", "backbone", "weights", "weights_sha256", "image_size", "preprocess", "selection", "epochs", "precision"),
    *("task", "suite", "dataset", "dataset_group", "data_digest", "n_train", "n_val", "n_test", "seed"),
    *("vpbench_version", "git_commit", "git_dirty"),
)

Names = str | Iterable[str] | None


def load_rows(store: Store, numbers: Collection[str] | None = None, shifts: bool = False) -> pd.DataFrame:
    """What :meth:`Store.load` returns, without the trials of searches, which are not tested.

    Warns, in a line each, of files that cannot be read and of mixed schema versions.

    Args:
        numbers: the columns that are reported, where these and the ones that describe a run are all that is needed; None
            for all columns.
        shifts: whether stored models on other data sets are reported, with the runs that they come from; else these alone.
    """
    columns = None if numbers is None else [*_ABOUT, *numbers, *(["acc1"] if SCORE in numbers else [])]
    rows = store.read(columns)
    for line in rows.left_out:
        warn(line)
    if len(rows.versions) > 1:
        counts = ", ".join(f"{count} of version {version}" for version, count in sorted(rows.versions.items()))
        warn(f"the results follow several schema versions ({counts}); what a version lacks stays empty.")
    frame = with_scores(as_frame(rows.table))
    is_shift, wanted = frame["stage"] == "shift", frame["stage"] != "search"
    if shifts:
        sources = set(zip(frame["suite"][is_shift], frame["trained_on"][is_shift], strict=True))
        of_source = pd.Series(list(zip(frame["suite"], frame["dataset"], strict=True)), frame.index, dtype=object).isin(sources)
        wanted &= is_shift | of_source
    else:
        wanted &= ~is_shift
    return frame[wanted].reset_index(drop=True)


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
        try:
            seeds = None if seed is None else (whole_number(seed),)
        except ValueError as error:
            raise UsageError(f"seed={seed!r}: {error}.") from None
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
            raise unknown(
                kind, str(value), {str(known) for known in values.dropna()}, "Only what the store holds can be shown.", ""
            )
        matches |= found
    return matches


def arrange(runs: pd.DataFrame, filters: Filters = Filters(), lines: Sequence[Line] = ()) -> pd.DataFrame:
    """Filtered runs with three more columns: ``row``, ``section`` and ``repeat``.

    ``row`` is a :class:`RowKey`. It is found in the whole store, so that a filter never changes it; with ``lines``, a run
    that a line selects is of the line's row. ``section`` is the :class:`SectionKey` that comparable runs share. ``repeat``
    marks a run with the row, data set and seed of another (the same data set in two suites), which is no further seed.
    """
    runs = with_scores(runs)
    runs = filters.apply(runs.assign(row=_objects(row_keys(runs, lines), runs)))
    runs = runs.assign(section=_objects(section_keys(runs), runs))
    identity = runs[["section", "row", "dataset", "seed", "run_id"]].assign(bad=runs["status"] != "ok")
    best_first = identity.sort_values(["bad", "run_id"])
    return runs.assign(repeat=best_first.duplicated(["section", "row", "dataset", "seed"]))


def scored_runs(runs: pd.DataFrame) -> pd.DataFrame:
    """Arranged runs that ended well, with a number of their own."""
    return runs[(runs["status"] == "ok") & runs["score"].notna() & ~runs["repeat"]]


def is_missing(value: Any) -> bool:
    """Whether a value of a row is null; a list never is."""
    return value is None or (not isinstance(value, (list, tuple, np.ndarray, dict, str)) and bool(pd.isna(value)))


def _objects(values: Sequence[Any], runs: pd.DataFrame) -> pd.Series[Any]:
    return pd.Series(values, index=runs.index, dtype=object)


def of_section(runs: pd.DataFrame, section: SectionKey) -> pd.DataFrame:
    """The arranged runs of one section."""
    return runs[[own == section for own in runs["section"]]]


def sections_in(runs: pd.DataFrame) -> list[SectionKey]:
    """The sections of arranged runs, sorted."""
    return sorted(set(runs["section"]))


# Keys of runs


@cache
def known_methods() -> frozenset[str]:
    """Methods that this version of vpbench has."""
    return frozenset(method_registry().names())


def known_suite(name: str | None) -> SuiteCard | None:
    """The card of a run's suite; None for a suite that this version of vpbench does not have."""
    return suite_card(name) if name in suite_names() else None


# Sections


def section_keys(runs: pd.DataFrame) -> list[SectionKey]:
    """The section of every run, in the order of ``runs``.

    How images are decoded belongs to a data set, not to the protocol: one data set decoded in two ways counts as two versions.
    """
    fields = ("backbone", "weights", "weights_sha256", "image_size", "preprocess", "selection", "epochs", "precision")
    plain = runs[list(fields)].convert_dtypes().astype(object)
    plain = plain.where(plain.notna(), None)
    decodings = {text: decoding_in(text) for text in plain["preprocess"].unique()}
    canonical = {
        text: canonical_json({name: value for name, value in settings_in(text).items() if name not in OWN_DECODING})
        for text in decodings
    }
    data = [(digest, decodings[text]) for digest, text in zip(runs["data_digest"].fillna(""), plain["preprocess"], strict=True)]
    images = {suite: _training_images(known_suite(suite)) for suite in runs["suite"].unique()}
    plain["preprocess"] = [canonical[text] for text in plain["preprocess"]]
    plain["images"] = pd.Series([images[suite] for suite in runs["suite"]], index=runs.index, dtype=object)
    tasks = [None if task == DEFAULT_TASK else task for task in runs["task"]]
    plain["task"] = pd.Series(tasks, index=runs.index, dtype=object)
    found: dict[tuple[Any, ...], SectionKey] = {}  # one object per section, as there are many runs
    keys = []
    for values in plain.itertuples(index=False, name=None):
        if values not in found:
            found[values] = SectionKey(**dict(zip((*fields, "images", "task"), values, strict=True)))
        keys.append(found[values])
    versions = list(zip(keys, runs["dataset"], data, strict=True))
    usual: dict[tuple[SectionKey, str], tuple[str, str]] = {}
    for (key, dataset, version), _ in sorted(Counter(versions).items(), key=lambda item: (-item[1], item[0][2])):
        usual.setdefault((key, dataset), version)
    rarer = {
        (key, dataset, version): replace(key, data=(dataset, *version))
        for key, dataset, version in set(versions)
        if version != usual[key, dataset]
    }
    return [rarer.get(version, version[0]) for version in versions]


def _training_images(suite: SuiteCard | None) -> str | int:
    """``train``, ``train+val`` or the number of images per class."""
    if suite is None:
        return "train"
    return suite.shots or suite.fit


# Rows


def row_keys(runs: pd.DataFrame, lines: Sequence[Line] = ()) -> list[RowKey]:
    """The row of every run: its method, and what differs from the method's most common configuration in the suite.

    A recipe may give a method other options in another suite or for another data set; such a value is no variant,
    so values that are the recipe's count as equal. A run that a line selects is of the line's row.
    """
    columns = ["method", "suite", "dataset", "method_version", "method_config", "recipe", "search"]
    if "trained_on" in runs:
        runs = runs.assign(dataset=runs["trained_on"].fillna(runs["dataset"]))  # a recipe is that of the training
    kind = runs.groupby(columns, dropna=False, sort=False).ngroup().to_numpy()  # many runs differ in nothing but the seed
    records = runs.iloc[np.unique(kind, return_index=True)[1]][columns].astype(object).to_dict("records")
    kinds = {tuple(map(str, run.values())): run for run in records}
    kind_of = [tuple(map(str, run.values())) for run in records]
    of_run = [kind_of[number] for number in kind]
    own = {key: _configuration(run) for key, run in kinds.items()}
    datasets: dict[tuple[str, str], set[str]] = {}
    for method, suite, dataset, *_ in kinds:
        datasets.setdefault((method, suite), set()).add(dataset)
    planned = {key: _planned(*key, names) for key, names in datasets.items()}
    texts = {key: canonical_json(_without(own[key], planned[key[0], key[1]].get(key[2], {}))) for key in kinds}
    frame = pd.DataFrame({"method": [key[0] for key in of_run], "suite": [key[1] for key in of_run], "key": of_run})
    frame = frame.assign(text=[texts[key] for key in of_run], started_at=runs["started_at"].to_numpy(), place=range(len(of_run)))
    base = {key: of_run[place] for key, place in _most_common(frame).items()}
    rows = {}
    for key, run in kinds.items():
        usual = base[key[0], key[1]]
        different = _different(own[key], json.loads(texts[key]), own[usual], json.loads(texts[usual]))
        rows[key] = _row_key(str(run["method"]), options_of(run), different, lines)
    found = [rows[key] for key in of_run]
    return found if "interpolation" not in runs else [_mixed(*pair) for pair in zip(found, runs["interpolation"], strict=True)]


def _mixed(row: RowKey, share: float | None) -> RowKey:
    """The row of weights that are mixed with a linear probe's."""
    return row if share is None or pd.isna(share) else replace(row, options=(*row.options, ("wise_ft", json.dumps(float(share)))))


def _row_key(name: str, config: Mapping[str, Any], different: Mapping[str, str | None], lines: Sequence[Line]) -> RowKey:
    """The row of the first line that selects the run, else of its method, with what else differs."""
    for line in lines:
        if line.selects(name, config):
            others = tuple((option, value) for option, value in different.items() if option not in line.options)
            method, preset = split_name(line.method)
            return RowKey(method, "" if line.options else preset, others, line.label)
    return RowKey(*split_name(name), tuple(different.items()))


def _configuration(run: Mapping[Hashable, Any]) -> dict[str, Any]:
    """All that a user can set about a method and its recipe; epochs are left to the section.

    What a search has chosen, another value for every data set, is one setting: that it was chosen, and in which search.
    """
    version = {} if pd.isna(run["method_version"]) else {"version": int(run["method_version"])}
    settings = version | _settings(options_of(run), settings_in(run["recipe"]))
    if search := search_in(run["search"]):
        for name in search["searched"]:
            settings.pop(name if name in settings else name.removeprefix("recipe."), None)
        settings["tuned"] = f"{search['space']}, {search['trials']} trials"
    return settings


def _settings(options: Mapping[str, Any], recipe: Mapping[str, Any]) -> dict[str, Any]:
    fitted = {name: value for name, value in recipe.items() if name != "epochs"}
    return {f"recipe.{name}" if name in options else name: value for name, value in fitted.items()} | dict(options)


def _planned(name: str, suite_name: str, datasets: Iterable[str]) -> dict[str, dict[str, Any]]:
    """What the recipe sets for a method on each data set; {} for a suite or a method that this version does not have."""
    method, preset = split_name(name)
    if method not in known_methods():
        return {}
    planned: dict[str, dict[str, Any]] = {}
    configs: dict[str, dict[str, Any]] = {}  # finding a method takes time, and many data sets have the same options
    try:
        suite, card = known_suite(suite_name), recipe_card(method)
        if suite is None:
            return {}
        for dataset in datasets:
            entries = [entry for entry in card.recipe if entry.applies(suite_name, dataset, preset or None, suite.task)]
            options = method_options(entries)
            if (key := canonical_json(options)) not in configs:
                configs[key] = dict(resolve_method(name, options).config)
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


def _different(own: dict[str, Any], text: dict[str, Any], base: dict[str, Any], usual: dict[str, Any]) -> dict[str, str | None]:
    """What differs between a marked configuration and the usual one, sorted; the values are the unmarked ones as JSON."""
    names = [name for name in sorted({**own, **base}) if (name in text, text.get(name)) != (name in usual, usual.get(name))]
    names = [name for name in names if name in own or "tuned" not in own]  # what a search chose is in the search's name
    return {name: json.dumps(own[name]) if name in own else None for name in names}
