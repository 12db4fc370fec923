"""What the papers print (``benchmarks/reference/<paper>_<number>.csv``), and how it is put beside measured numbers.

Published figures have columns of their own, with the gap; they are never marked as the best and never enter a mean.
"""

from __future__ import annotations

import csv
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.resources import files
from string import ascii_lowercase
from typing import Any

from vpbench.core.errors import UsageError
from vpbench.core.frozen_model import FrozenModel
from vpbench.reporting.definition import MEANS, TableDefinition
from vpbench.reporting.keys import ColumnKey
from vpbench.reporting.table import Cell, Column, Row, Section, Table

REPORTED, GAP = "Reported", "Gap"
_ALONE = "Reported only"


@dataclass(frozen=True)
class PublishedNumber:
    """One printed number.

    Attributes:
        method, backbone, pretraining, dataset, metric: as the paper names them.
        value: None where the paper has a dash.
        text: as printed.
        key: of our column with the same quantity; of kind ``other`` where there is none.
    """

    method: str
    backbone: str
    pretraining: str
    dataset: str
    metric: str
    value: float | None
    text: str
    key: ColumnKey
    note: str


class Footnote(FrozenModel):
    """A remark on a table (no method and no dataset given), or about the cells of these methods and data sets.

    Names are the paper's; empty stands for all.
    """

    paper: str
    tables: tuple[str, ...]
    methods: tuple[str, ...] = ()
    backbones: tuple[str, ...] = ()
    datasets: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ()
    text: str

    def on_cells(self) -> bool:
        return bool(self.methods or self.datasets or self.backbones or self.metrics)

    def marks(self, number: PublishedNumber) -> bool:
        """Whether it is about this number."""
        wanted = (
            (self.methods, number.method),
            (self.backbones, number.pretraining),
            (self.datasets, number.dataset),
            (self.metrics, number.metric),
        )
        return self.on_cells() and all(not names or name in names for names, name in wanted)


def published_figures(definition: TableDefinition, paper: str) -> tuple[PublishedNumber, ...]:
    """The numbers of one table of ``paper``, in its order; empty when there is no such file."""
    source = files("vpbench.benchmarks") / "reference" / f"{paper}_{definition.number}.csv"
    if not source.is_file():
        return ()
    rows = csv.DictReader(source.read_text(encoding="utf-8").splitlines())
    return tuple(_figure(row, definition) for row in rows)


def footnotes(paper: str, number: str) -> tuple[Footnote, ...]:
    """The remarks on a table of a paper."""
    return tuple(note for note in _all_footnotes() if note.paper == paper and number in note.tables)


def our_backbones(backbone: str, pretraining: str) -> tuple[str, ...]:
    """Our names of a paper's backbone; none where it is not clear which it is."""
    for entry in _names()["backbones"]:
        if entry["backbone"] == backbone and entry["pretraining"] == pretraining:
            return tuple(entry["names"])
    return ()


def _figure(row: dict[str, str], definition: TableDefinition) -> PublishedNumber:
    value = float(row["value"]) if row["value"] else None
    names = {name: row[name] for name in ("method", "backbone", "pretraining", "dataset", "metric", "note")}
    return PublishedNumber(**names, value=value, text=row["value"] or "-", key=_key(row["dataset"], row["metric"], definition))


def _key(dataset: str, metric: str, definition: TableDefinition) -> ColumnKey:
    """The column of ours that shows the same."""
    names = _names()
    for cost in definition.costs:
        if cost.published and metric == cost.published:
            return ColumnKey("cost", cost.column)
    if definition.published_metric not in metric:
        return ColumnKey("other", f"{dataset} {metric}".strip())
    if dataset in names["groups"]:
        return ColumnKey("group", names["groups"][dataset])
    if "suites" in definition.columns and dataset in names["suites"]:
        suite, _, over = names["suites"][dataset].partition(":")
        return ColumnKey("suite", suite, over)
    if dataset in names["means"]:
        return ColumnKey("mean", over=names["means"][dataset])
    for suite in definition.suites:
        if dataset in names["datasets"].get(suite, {}):
            return ColumnKey("dataset", names["datasets"][suite][dataset])
    return ColumnKey("other", dataset)


@cache
def _names() -> dict[str, Any]:
    """The papers' names of data sets and backbones, and ours."""
    return tomllib.loads((files("vpbench.benchmarks") / "reference" / "names.toml").read_text(encoding="utf-8"))


@cache
def _all_footnotes() -> tuple[Footnote, ...]:
    content = tomllib.loads((files("vpbench.benchmarks") / "reference" / "footnotes.toml").read_text(encoding="utf-8"))
    return tuple(Footnote.model_validate(entry) for entry in content["footnote"])


# Beside measured numbers


@dataclass
class _Letters:
    """Footnotes in the order of their first use."""

    general: Sequence[Footnote]
    texts: list[str] = field(default_factory=list)

    def of(self, figure: PublishedNumber, foreign: bool) -> tuple[str, ...]:
        own = [figure.note] if figure.note else []
        own += [f"on {figure.backbone}, pre-training {figure.pretraining}"] if foreign else []
        own += [note.text for note in self.general if note.marks(figure)]
        self.texts += [text for text in dict.fromkeys(own) if text not in self.texts]
        return tuple(_letter(index) for index in sorted({self.texts.index(text) for text in own}))

    def lines(self) -> list[str]:
        return [f"[{_letter(index)}] {_sentence(text)}" for index, text in enumerate(self.texts)]


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:] + ("" if text.endswith(".") else ".")


def _letter(index: int) -> str:
    return ascii_lowercase[index] if index < 26 else ascii_lowercase[index // 26 - 1] + ascii_lowercase[index % 26]


def with_reported(table: Table, definition: TableDefinition, paper: str) -> Table:
    """The table with the paper's figures: beside the runs on the paper's suite and backbone, else in a section of their own.

    Raises:
        UsageError: when nothing is published for the table.
    """
    figures = published_figures(definition, paper)
    if not figures:
        raise UsageError(f"nothing is published for table {definition.number} of {paper}: leave out --reported.")
    known = footnotes(paper, definition.number)
    letters = _Letters([note for note in known if note.on_cells()])
    sections = list(table.sections)
    alone: list[Section] = []
    for (backbone, pretraining), own in _by_backbone(figures).items():
        cells = {(figure.method, figure.key): (figure, letters.of(figure, _is_foreign(figure, own))) for figure in own}
        ours = our_backbones(backbone, pretraining)
        places = [index for index, section in enumerate(sections) if _is_comparable(section, ours, definition)]
        for index in places:
            sections[index] = _beside(sections[index], definition, cells)
        if not places:
            alone.append(_reported_alone(f"{backbone}, {pretraining}" if backbone else "backbone not stated", definition, cells))
    lines = [
        f"Reported: as printed in {definition.paper}; gap: measured minus reported. No reported figure enters a mean or a rank.",
        *letters.lines(),
        *(f"No row of ours: {', '.join(names)} ({why})." for why, names in _without_row(definition).items()),
        *(f"On the paper's table: {_sentence(note.text)}" for note in known if not note.on_cells()),
    ]
    return replace(table, sections=(*sections, *alone), footer=(*table.footer, *lines))


def _without_row(definition: TableDefinition) -> dict[str, list[str]]:
    """The paper's rows that no run of ours can be, by the reason."""
    found: dict[str, list[str]] = {}
    for name, why in definition.without_row.items():
        found.setdefault(why, []).append(name)
    return found


def _by_backbone(figures: Iterable[PublishedNumber]) -> dict[tuple[str, str], list[PublishedNumber]]:
    """Figures by backbone and pre-training. One whose backbone we do not have joins the table's first; a footnote names it."""
    groups: dict[tuple[str, str], list[PublishedNumber]] = {}
    first: tuple[str, str] | None = None
    for figure in figures:
        key = (figure.backbone, figure.pretraining)
        if first is None:
            first = key
        groups.setdefault(key if our_backbones(*key) else first, []).append(figure)
    return groups


def _is_foreign(figure: PublishedNumber, group: Sequence[PublishedNumber]) -> bool:
    return (figure.backbone, figure.pretraining) != (group[0].backbone, group[0].pretraining)


def _is_comparable(section: Section, ours: Sequence[str], definition: TableDefinition) -> bool:
    return section.backbone in ours and bool(set(section.suites) & set(definition.suites))


Cells = Mapping[tuple[str, ColumnKey], tuple[PublishedNumber, tuple[str, ...]]]


def _beside(section: Section, definition: TableDefinition, cells: Cells) -> Section:
    """The section with reported columns, gaps, and the rows of methods that only the paper has."""
    named = {column.key: column.name for column in section.columns if isinstance(column.key, ColumnKey)}
    theirs = {key: _name(figure, definition) for (_, key), (figure, _) in cells.items()}
    keys = [key for key in named if key in theirs] + [key for key in theirs if key not in named]
    hidden = {ColumnKey("cost", cost.column) for cost in definition.costs if not cost.gap}
    gaps = [key for key in keys if key in named and key not in hidden]
    columns = (
        *section.columns,
        *(Column(REPORTED, named.get(key, theirs[key]), "reported", key) for key in keys),
        *(Column(GAP, named[key], "gap", key) for key in gaps),
    )
    rows = [
        replace(row, cells=(*row.cells, *_extra(row, section.columns, definition.published_name(row.key), keys, gaps, cells)))
        for row in section.rows
    ]
    shown = {definition.published_name(row.key) for row in section.rows}
    for method in _methods(cells):
        if method not in shown:
            empty = Row(_ALONE, definition.row_of(method), tuple(Cell() for _ in section.columns))
            rows.append(replace(empty, cells=(*empty.cells, *_extra(empty, section.columns, method, keys, gaps, cells))))
    return replace(section, columns=columns, rows=tuple(rows))


def _extra(
    row: Row, columns: Sequence[Column], method: str | None, keys: Sequence[ColumnKey], gaps: Sequence[ColumnKey], cells: Cells
) -> list[Cell]:
    measured = {column.key: cell.mean for column, cell in zip(columns, row.cells, strict=True)}
    found = {key: cells.get((method or "", key)) for key in keys}
    extra = [_printed(found[key]) for key in keys]
    for key in gaps:
        figure, value = found[key], measured[key]
        reported = figure[0].value if figure else None
        extra.append(Cell() if value is None or reported is None else _gap(value - reported, figure[0].text if figure else ""))
    return extra


def _printed(found: tuple[PublishedNumber, tuple[str, ...]] | None) -> Cell:
    if not found:
        return Cell()
    figure, notes = found
    return Cell(figure.text, figure.value, notes=notes)


def _gap(value: float, printed: str) -> Cell:
    """With the decimals of the printed figure."""
    number = round(value, 9)
    return Cell(f"{number:+.{len(printed.partition('.')[2])}f}", number)


def _reported_alone(source: str, definition: TableDefinition, cells: Cells) -> Section:
    """A section of reported columns alone."""
    first = {key: figure for (_, key), (figure, _) in reversed(list(cells.items()))}
    keys = list(dict.fromkeys(key for _, key in cells))
    columns = tuple(Column(REPORTED, _name(first[key], definition), "reported", key) for key in keys)
    rows = tuple(
        Row(_ALONE, definition.row_of(method), tuple(_printed(cells.get((method, key))) for key in keys))
        for method in _methods(cells)
    )
    caption = f"Reported by the paper: {source}"
    return Section(None, columns, rows, ("No run here is comparable with these figures.",), caption=caption)


def _methods(cells: Cells) -> list[str]:
    return list(dict.fromkeys(method for method, _ in cells))


def _name(figure: PublishedNumber, definition: TableDefinition) -> str:
    """A heading for what no column of ours shows."""
    key = figure.key
    if key.kind == "cost":
        return next(cost.title for cost in definition.costs if cost.column == key.name)
    if key.kind == "suite":
        return f"{key.name}, {MEANS[key.over].lower()}"
    return {"mean": MEANS.get(key.over, ""), "group": f"Mean of {key.name}"}.get(key.kind, key.name)
