"""From runs to a neutral table: text and numbers in cells, no markup."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any, Literal

import pandas as pd

from vpbench.reporting.definition import CostColumn, TableDefinition
from vpbench.reporting.footer import footer_lines
from vpbench.reporting.runs import Filters, arrange, of_section
from vpbench.reporting.sections import in_order, protocol, titles

EMPTY = "-"
_RANGE = "\u2013"
_MEANS = {"datasets": "Mean", "groups": "Mean of groups"}


@dataclass(frozen=True)
class Cell:
    """One number of a table.

    Attributes:
        text: ready to print, without marks; ``-`` when there is no number.
        mean, std: in the column's unit, to nine decimals, which hides how sums were ordered; ``std`` is the sample standard
            deviation over seeds, None below two.
        n: runs behind the number, None for means over data sets.
        rank: 1 for the best and 2 for the second best of the column in its section, after rounding; else None.
    """

    text: str = EMPTY
    mean: float | None = None
    std: float | None = None
    n: int | None = None
    rank: int | None = None


@dataclass(frozen=True)
class Column:
    """A data set's scores under the heading of its group, a mean of them, or a cost (these two have no group)."""

    group: str
    name: str
    kind: Literal["score", "mean", "cost"]


@dataclass(frozen=True)
class Row:
    """A method with its options, under the heading ``group``."""

    group: str
    label: str
    cells: tuple[Cell, ...]

    def scores(self, columns: Sequence[Column]) -> list[Cell]:
        """The cells of the data sets, without means and costs."""
        return [cell for cell, column in zip(self.cells, columns, strict=True) if column.kind == "score"]


@dataclass(frozen=True)
class Section:
    """Rows that may be compared: everything but method and recipe is the same."""

    title: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Table:
    """Its number in the paper, a title, sections with columns of their own, and the lines below."""

    number: str
    title: str
    sections: tuple[Section, ...]
    footer: tuple[str, ...]

    @property
    def ranked(self) -> bool:
        """Whether any cell carries a mark."""
        return any(cell.rank for section in self.sections for row in section.rows for cell in row.cells)


def build_table(runs: pd.DataFrame, definition: TableDefinition, filters: Filters | None = None) -> Table:
    """The table of ``definition``, filled with ``runs`` (one per row, columns of the store's schema).

    Raises:
        UsageError: when the filters leave nothing.
    """
    runs = arrange(runs, filters or Filters())
    names = titles(in_order(runs["section"]))
    sizes = set(_scored(runs, definition).groupby(["section", "row", "dataset"]).size())
    same_n = sizes.pop() if len(sizes) == 1 else None
    sections = tuple(_section(of_section(runs, key), definition, title, key, same_n is None) for key, title in names.items())
    grid = [cell for section in sections for row in section.rows for cell in row.scores(section.columns)]
    filled = sum(cell.mean is not None for cell in grid)
    footer = footer_lines(runs, definition, same_n, filled, len(grid))
    return Table(definition.number, definition.title, sections, footer)


def _scored(runs: pd.DataFrame, definition: TableDefinition) -> pd.DataFrame:
    """Runs that ended well and have a number of their own; only these enter cells."""
    return runs[(runs["status"] == "ok") & runs[definition.metric].notna() & ~runs["repeat"]]


def _section(runs: pd.DataFrame, definition: TableDefinition, title: str, key: tuple[Any, ...], show_n: bool) -> Section:
    data_sets = _columns(runs)
    means = [name for name in definition.means if _has_mean(name, data_sets)]
    columns = data_sets + [Column("", _MEANS[name], "mean") for name in means]
    columns += [Column("", cost.title, "cost") for cost in definition.costs]
    order = sorted(set(zip(runs["method"], runs["row"])), key=lambda pair: (definition.place(pair[0]), pair[1]))
    rows = []
    for method, label in order:
        own = _scored(runs[runs["row"] == label], definition)
        values = [own[own["dataset"] == column.name][definition.metric] for column in data_sets]
        scores = [_score(each, definition.decimals, show_n) for each in values]
        averages = [_mean(scores, data_sets, name, definition.decimals) for name in means]
        costs = [_cost(own, cost) for cost in definition.costs]
        rows.append(Row(definition.group_of(method), label, (*scores, *averages, *costs)))
    return Section(title, tuple(columns), _ranked(rows, len(data_sets) + len(means), definition.decimals), protocol(key, runs))


def _columns(runs: pd.DataFrame) -> list[Column]:
    """Data sets by group and name; a data set that two suites group differently stays in the first group by name."""
    pairs = sorted(zip(runs["dataset_group"].fillna(""), runs["dataset"]))
    groups = {dataset: group for group, dataset in reversed(pairs)}
    return [Column(group, dataset, "score") for dataset, group in sorted(groups.items(), key=lambda item: item[::-1])]


def _has_mean(name: str, columns: Sequence[Column]) -> bool:
    return len(columns) > 1 if name == "datasets" else len({column.group for column in columns}) > 1


def _score(values: pd.Series[float], decimals: int, show_n: bool) -> Cell:
    if values.empty:
        return Cell()
    mean, n = _number(values.mean()), len(values)
    std = _number(values.std(ddof=1)) if n > 1 else None
    spread = f" ± {std:.{decimals}f}" if std is not None else ""
    return Cell(f"{mean:.{decimals}f}{spread}{f' ({n})' if show_n else ''}", mean, std, n)


def _number(value: float) -> float:
    return round(float(value), 9)


def _mean(scores: Sequence[Cell], columns: Sequence[Column], name: str, decimals: int) -> Cell:
    """The mean over data sets or over group means; empty as soon as one data set is."""
    if any(cell.mean is None for cell in scores):
        return Cell()
    values = pd.Series([cell.mean for cell in scores])
    grouped = values.groupby([column.group for column in columns]).mean() if name == "groups" else values
    mean = _number(grouped.mean())
    return Cell(f"{mean:.{decimals}f}", mean)


def _cost(runs: pd.DataFrame, cost: CostColumn) -> Cell:
    """Mean over the runs; as text a range where the data sets' numbers differ by more than rounding."""
    values = runs[["dataset", cost.column]].dropna()
    if values.empty:
        return Cell()
    scaled = values[cost.column].astype(float) / cost.scale
    per_data_set = scaled.groupby(values["dataset"]).mean()
    low, high = (_significant(value, cost.digits) for value in (per_data_set.min(), per_data_set.max()))
    mean = _number(scaled.mean())
    return Cell(_significant(mean, cost.digits) if low == high else f"{low}{_RANGE}{high}", mean, None, len(values))


def _significant(value: float, digits: int) -> str:
    """Plain decimal notation with so many significant digits: 0.00123, 17.6, 1230."""
    return f"{Decimal(f'{value:.{digits - 1}e}'):f}"


def _ranked(rows: Sequence[Row], count: int, decimals: int) -> tuple[Row, ...]:
    """The rows with ranks in their first ``count`` cells. Values that print alike share a rank; a single value gets none."""
    ranks = [_ranks([row.cells[index].mean for row in rows], decimals) for index in range(count)]
    return tuple(
        replace(row, cells=(*(replace(cell, rank=ranks[j][i]) for j, cell in enumerate(row.cells[:count])), *row.cells[count:]))
        for i, row in enumerate(rows)
    )


def _ranks(means: Sequence[float | None], decimals: int) -> list[int | None]:
    printed = [None if mean is None else float(f"{mean:.{decimals}f}") for mean in means]
    values = [value for value in printed if value is not None]
    if len(values) < 2:
        return [None] * len(means)
    best_two = sorted(set(values), reverse=True)[:2]
    return [best_two.index(value) + 1 if value in best_two else None for value in printed]
