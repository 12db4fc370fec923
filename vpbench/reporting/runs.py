"""Which runs belong together: filters, rows (a method with its options), sections (runs that may be compared)."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, fields
from typing import Any

import pandas as pd

from vpbench.core.errors import UsageError
from vpbench.core.hashing import canonical_json
from vpbench.core.names import unknown

# Runs are comparable when these agree, and the digest of the data set too.
SECTION_KEYS = ("backbone", "weights", "weights_sha256", "image_size", "preprocess", "selection", "epochs", "precision")


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
    """Filtered runs with three more columns: ``row``, ``section`` and ``repeat``.

    ``row`` labels the method with its options; labels look at the whole store, so that a filter never renames a row.
    ``section`` is a tuple that comparable runs share. ``repeat`` marks a run with the row, data set and seed of another
    (the same data set in two suites), which is no further seed.
    """
    runs = runs.assign(row=_row_labels(runs))
    runs = filters.apply(runs)
    runs = runs.assign(section=pd.Series(_sections(runs), index=runs.index, dtype=object))
    best_first = runs.assign(bad=runs["status"] != "ok").sort_values(["bad", "run_id"])
    return runs.assign(repeat=best_first.duplicated(["section", "row", "dataset", "seed"]))


def of_section(runs: pd.DataFrame, section: tuple[Any, ...]) -> pd.DataFrame:
    """The runs of one section, as :func:`arrange` names it."""
    return runs[[own == section for own in runs["section"]]]


def _row_labels(runs: pd.DataFrame) -> list[str]:
    """``method``, or ``method (option=value)`` with what differs from its most common configuration in the suite.

    A recipe may give a method other options in another suite; that is no variant that a user asked for.
    """
    texts = [canonical_json(_configuration(run)) for run in runs.to_dict("records")]
    frame = runs[["method", "suite", "started_at"]].assign(suite=runs["suite"].fillna(""), text=texts)
    base = {key: _most_common(group) for key, group in frame.groupby(["method", "suite"])}
    return [
        _label(method, json.loads(text), json.loads(base[method, suite]))
        for method, suite, text in zip(frame["method"], frame["suite"], texts, strict=True)
    ]


def _configuration(run: Mapping[Hashable, Any]) -> dict[str, Any]:
    """All that a user can set about a method and its recipe; epochs are left to the section."""
    options = _json(run["method_config"])
    recipe = {name: value for name, value in _json(run["recipe"]).items() if name != "epochs"}
    version = {} if pd.isna(run["method_version"]) else {"version": int(run["method_version"])}
    return version | {f"recipe.{name}" if name in options else name: value for name, value in recipe.items()} | options


def _most_common(group: pd.DataFrame) -> str:
    """Of equally common ones the first that ran: defaults come before variations."""
    counted = group.groupby("text", as_index=False).agg(count=("text", "size"), started=("started_at", "min"))
    return str(counted.sort_values(["count", "started", "text"], ascending=[False, True, True])["text"].iloc[0])


def _label(method: str, own: dict[str, Any], base: dict[str, Any]) -> str:
    names = [name for name in {**own, **base} if (name in own, own.get(name)) != (name in base, base.get(name))]
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
