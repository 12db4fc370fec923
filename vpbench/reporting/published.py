"""What the papers print: their figures (``benchmarks/reference/<paper>_<number>.csv``) and what to know about them."""

from __future__ import annotations

import csv
import tomllib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from pydantic import BaseModel, ConfigDict

from vpbench.reporting.definition import TableDefinition


@dataclass(frozen=True)
class Figure:
    """One printed number.

    Attributes:
        method, backbone, pretraining, dataset, metric: as the paper names them.
        value: None where the paper has a dash.
        text: as printed.
        key: which of our columns has the same quantity, e.g. ``dataset:cub``; the paper's own names where none has.
    """

    method: str
    backbone: str
    pretraining: str
    dataset: str
    metric: str
    value: float | None
    text: str
    key: str
    note: str


class Footnote(BaseModel):
    """Something to know about a table (no method and no dataset given), or about the cells of these methods and data sets.

    Names are the paper's; empty stands for all.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    paper: str
    tables: tuple[str, ...]
    methods: tuple[str, ...] = ()
    backbones: tuple[str, ...] = ()
    datasets: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ()
    text: str

    def on_cells(self) -> bool:
        return bool(self.methods or self.datasets or self.backbones or self.metrics)

    def marks(self, figure: Figure) -> bool:
        """Whether it is about this number."""
        wanted = (
            (self.methods, figure.method),
            (self.backbones, figure.pretraining),
            (self.datasets, figure.dataset),
            (self.metrics, figure.metric),
        )
        return self.on_cells() and all(not names or name in names for names, name in wanted)


def published_figures(definition: TableDefinition, paper: str) -> tuple[Figure, ...]:
    """The numbers of one table of ``paper``, in its order; empty when there is no such file."""
    source = files("vpbench.benchmarks") / "reference" / f"{paper}_{definition.number}.csv"
    if not source.is_file():
        return ()
    rows = csv.DictReader(source.read_text(encoding="utf-8").splitlines())
    return tuple(_figure(row, definition) for row in rows)


def footnotes(paper: str, number: str) -> tuple[Footnote, ...]:
    """What is known about a table of a paper."""
    return tuple(note for note in _all_footnotes() if note.paper == paper and number in note.tables)


def our_backbones(backbone: str, pretraining: str) -> tuple[str, ...]:
    """Our names of a paper's backbone; none where it is not clear which it is."""
    for entry in _names()["backbones"]:
        if entry["backbone"] == backbone and entry["pretraining"] == pretraining:
            return tuple(entry["names"])
    return ()


def _figure(row: dict[str, str], definition: TableDefinition) -> Figure:
    value = float(row["value"]) if row["value"] else None
    names = {name: row[name] for name in ("method", "backbone", "pretraining", "dataset", "metric", "note")}
    return Figure(**names, value=value, text=row["value"] or "-", key=_key(row["dataset"], row["metric"], definition))


def _key(dataset: str, metric: str, definition: TableDefinition) -> str:
    """The column of ours that shows the same."""
    for cost in definition.costs:
        if cost.published and metric == cost.published:
            return f"cost:{cost.column}"
    if "top-1" not in metric:
        return f"other:{dataset} {metric}".strip()
    if dataset in _names()["groups"]:
        return f"group:{_names()['groups'][dataset]}"
    if "suites" in definition.columns and dataset in _names()["suites"]:
        return f"suite:{_names()['suites'][dataset]}"
    if dataset in _names()["means"]:
        return f"mean:{_names()['means'][dataset]}"
    for suite in definition.suites:
        if dataset in _names()["datasets"].get(suite, {}):
            return f"dataset:{_names()['datasets'][suite][dataset]}"
    return f"other:{dataset}"


@cache
def _names() -> dict[str, Any]:
    """The papers' names of data sets and backbones, and ours."""
    return tomllib.loads((files("vpbench.benchmarks") / "reference" / "names.toml").read_text(encoding="utf-8"))


@cache
def _all_footnotes() -> tuple[Footnote, ...]:
    content = tomllib.loads((files("vpbench.benchmarks") / "reference" / "footnotes.toml").read_text(encoding="utf-8"))
    return tuple(Footnote.model_validate(entry) for entry in content["footnote"])
