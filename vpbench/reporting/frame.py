"""The rows of a store as reports use them: loaded, filtered, and each with the key of its row and of its section."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import pandas as pd

from vpbench.core.errors import UsageError
from vpbench.core.names import unknown
from vpbench.reporting.definition import Line
from vpbench.reporting.grouping import row_keys, section_keys
from vpbench.reporting.keys import SectionKey
from vpbench.store.store import Store, as_frame

# By which runs are filtered, grouped into rows and sections, and described below a table.
_ABOUT = (
    *("run_id", "status", "stage", "started_at", "method", "method_version", "method_config", "recipe", "recipe_source"),
    *("search", "backbone", "weights", "weights_sha256", "image_size", "preprocess", "selection", "epochs", "precision"),
    *("suite", "dataset", "dataset_group", "data_digest", "n_train", "n_val", "n_test", "seed"),
    *("vpbench_version", "git_commit", "git_dirty"),
)

Names = str | Iterable[str] | None


def load_rows(store: Store, numbers: Iterable[str] | None = None) -> pd.DataFrame:
    """What :meth:`Store.load` returns, without the trials of searches, which are not tested.

    Warns, in a line each, of files that cannot be read and of mixed schema versions.

    Args:
        numbers: the columns that are reported, where these and the ones that describe a run are all that is needed; None
            for all columns.
    """
    rows = store.read(None if numbers is None else [*_ABOUT, *numbers])
    for path, reason in rows.broken:
        warnings.warn(f"{path} is not a readable result and is left out: {reason}", stacklevel=2)
    if len(rows.versions) > 1:
        counts = ", ".join(f"{count} of version {version}" for version, count in sorted(rows.versions.items()))
        warnings.warn(f"the results follow several schema versions ({counts}); what a version lacks stays empty.", stacklevel=2)
    frame = as_frame(rows.table)
    return frame[frame["stage"] != "search"].reset_index(drop=True)


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
    """Filtered runs with three more columns: ``row``, ``section`` and ``repeat``.

    ``row`` is a :class:`RowKey`. It is found in the whole store, so that a filter never changes it; with ``lines``, a run
    that a line selects is of the line's row. ``section`` is the :class:`SectionKey` that comparable runs share. ``repeat``
    marks a run with the row, data set and seed of another (the same data set in two suites), which is no further seed.
    """
    runs = filters.apply(runs.assign(row=_objects(row_keys(runs, lines), runs)))
    runs = runs.assign(section=_objects(section_keys(runs), runs))
    identity = runs[["section", "row", "dataset", "seed", "run_id"]].assign(bad=runs["status"] != "ok")
    best_first = identity.sort_values(["bad", "run_id"])
    return runs.assign(repeat=best_first.duplicated(["section", "row", "dataset", "seed"]))


def _objects(values: Sequence[Any], runs: pd.DataFrame) -> pd.Series[Any]:
    return pd.Series(values, index=runs.index, dtype=object)


def of_section(runs: pd.DataFrame, section: SectionKey) -> pd.DataFrame:
    """The arranged runs of one section."""
    return runs[[own == section for own in runs["section"]]]


def sections_in(runs: pd.DataFrame) -> list[SectionKey]:
    """The sections of arranged runs, sorted."""
    return sorted(set(runs["section"]))
