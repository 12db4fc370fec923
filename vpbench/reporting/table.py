"""From runs to a neutral table: text and numbers in cells, no markup."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any, Literal

import pandas as pd

from vpbench.data.catalog import dataset_card
from vpbench.execution.protocol import SuiteCard
from vpbench.reporting.definition import CostColumn, TableDefinition
from vpbench.reporting.footer import footer_lines
from vpbench.reporting.runs import Filters, arrange, known_suite, of_section
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
class _Mean:
    """A mean column: over the data sets ``members`` (name: group), or over the means of their groups."""

    title: str
    members: dict[str, str]
    over_groups: bool


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
    means, notes = _means(runs, definition, data_sets)
    columns = data_sets + [Column("", mean.title, "mean") for mean in means]
    columns += [Column("", cost.title, "cost") for cost in definition.costs]
    order = sorted(set(zip(runs["method"], runs["row"])), key=lambda pair: (definition.place(pair[0]), pair[1]))
    rows = []
    for method, label in order:
        own = _scored(runs[runs["row"] == label], definition)
        values = [own[own["dataset"] == column.name][definition.metric] for column in data_sets]
        scores = [_score(each, definition.decimals, show_n) for each in values]
        by_name = {column.name: cell for column, cell in zip(data_sets, scores, strict=True)}
        averages = [_mean(by_name, mean, definition.decimals) for mean in means]
        costs = [_cost(own, cost) for cost in definition.costs]
        rows.append(Row(definition.group_of(method), label, (*scores, *averages, *costs)))
    ranked = _ranked(rows, len(data_sets) + len(means), definition.decimals)
    return Section(title, tuple(columns), ranked, (*protocol(key, runs), *notes))


def _columns(runs: pd.DataFrame) -> list[Column]:
    """Data sets by group and name; a data set that two suites group differently stays in the first group by name."""
    pairs = sorted(zip(runs["dataset_group"].fillna(""), runs["dataset"]))
    groups = {dataset: group for group, dataset in reversed(pairs)}
    return [Column(group, dataset, "score") for dataset, group in sorted(groups.items(), key=lambda item: item[::-1])]


def _means(runs: pd.DataFrame, definition: TableDefinition, columns: Sequence[Column]) -> tuple[list[_Mean], list[str]]:
    """The mean columns, and what to say below the section about the ones that cannot be computed.

    A suite that asks for means of its own gets them in every table, over its members in every group that has a run: without
    a run for each of them there is no mean, as that of 18 of VTAB's 19 tasks would pass for the mean of VTAB.
    """
    groups = {column.name: column.group for column in columns}
    if len(columns) < 2:
        return [], []
    asking = [(name, card) for name in sorted(runs["suite"].dropna().unique()) if (card := known_suite(name)) and card.means]
    if not asking:
        several = len(set(groups.values())) > 1
        return [_Mean(_MEANS[name], groups, name == "groups") for name in definition.means if name == "datasets" or several], []
    suite, card = asking[0]
    members = _members(card, groups)
    count = len(set(members.values()))
    titles = {"datasets": f"Mean of {len(members)}", "groups": f"Mean of {count} groups"}
    means = [_Mean(titles[name], members, name == "groups") for name in card.means if name == "datasets" or count > 1]
    absent = [name for name in members if name not in groups]
    return means, [f"No mean: of {suite}'s data sets {', '.join(absent)} has no run here."] if absent else []


def _members(suite: SuiteCard, groups: dict[str, str]) -> dict[str, str]:
    """The suite's data sets with their groups, in those groups that the table has a column of."""
    members = {name: groups[name] if name in groups else dataset_card(name).group for name in suite.datasets}
    present = {group for name, group in members.items() if name in groups}
    return {name: group for name, group in members.items() if group in present}


def _score(values: pd.Series[float], decimals: int, show_n: bool) -> Cell:
    if values.empty:
        return Cell()
    mean, n = _number(values.mean()), len(values)
    std = _number(values.std(ddof=1)) if n > 1 else None
    spread = f" ± {std:.{decimals}f}" if std is not None else ""
    return Cell(f"{mean:.{decimals}f}{spread}{f' ({n})' if show_n else ''}", mean, std, n)


def _number(value: float) -> float:
    return round(float(value), 9)


def _mean(scores: Mapping[str, Cell], mean: _Mean, decimals: int) -> Cell:
    """The mean over data sets or over group means; empty as soon as one data set is."""
    values = pd.Series({name: scores.get(name, Cell()).mean for name in mean.members}, dtype=float)
    if values.isna().any():
        return Cell()
    grouped = values.groupby(list(mean.members.values())).mean() if mean.over_groups else values
    number = _number(grouped.mean())
    return Cell(f"{number:.{decimals}f}", number)


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
