"""From runs to a neutral table: text and numbers in cells, no markup."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any, Literal

import pandas as pd

from vpbench.data.catalog import dataset_card
from vpbench.execution.protocol import SuiteCard
from vpbench.reporting.definition import CostColumn, TableDefinition
from vpbench.reporting.footer import footer_lines
from vpbench.reporting.runs import Filters, arrange, known_suite, of_section
from vpbench.reporting.sections import differences, in_order, protocol, titles
from vpbench.reporting.selection import of_the_paper

EMPTY = "-"
_RANGE = "\u2013"
_MEANS = {"datasets": "Mean", "groups": "Mean of groups"}

# Scores by row, data set and seed.
Scores = Mapping[str, Mapping[str, Mapping[int, float]]]


@dataclass(frozen=True)
class Cell:
    """One number of a table.

    Attributes:
        text: ready to print, without marks; ``-`` when there is no number.
        mean, std: in the column's unit, to nine decimals, which hides how sums were ordered; ``std`` is the sample standard
            deviation over seeds, None below two, and for means over data sets that have other seeds.
        n: seeds behind the number (for a cost: runs); None for a mean over data sets that have other seeds.
        rank: 1 for the best and 2 for the second best of the column in its section, after rounding; else None.
        notes: letters of the footnotes on it.
    """

    text: str = EMPTY
    mean: float | None = None
    std: float | None = None
    n: int | None = None
    rank: int | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Column:
    """What one column shows.

    Attributes:
        group: the heading above: a data set's group, or "Reported" and "Gap".
        kind: a data set's score, a mean of scores, a cost, a paper's figure, measured minus reported, or a test's result.
        key: what the numbers are of, e.g. ``dataset:cub``; a paper's figure has the key of what was measured.
    """

    group: str
    name: str
    kind: Literal["score", "mean", "cost", "reported", "gap", "test"]
    key: str = ""


@dataclass(frozen=True)
class _Mean:
    """A mean column: over the data sets ``members`` (name: group), or over the means of their groups."""

    title: str
    key: str
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
    """Rows that may be compared: everything but method and recipe is the same.

    Attributes:
        backbone, suites: of its runs; None and empty where they have several backbones, or no run at all.
        head: what the rows are.
    """

    title: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...]
    backbone: str | None = None
    suites: tuple[str, ...] = ()
    head: str = "Method"


@dataclass(frozen=True)
class Table:
    """Its number in the paper (empty for none), a title, sections with columns of their own, and the lines below."""

    number: str
    title: str
    sections: tuple[Section, ...]
    footer: tuple[str, ...]

    @property
    def caption(self) -> str:
        return f"Table {self.number}: {self.title}" if self.number else self.title

    @property
    def ranked(self) -> bool:
        """Whether any cell carries a mark."""
        return any(cell.rank for section in self.sections for row in section.rows for cell in row.cells)


def build_table(runs: pd.DataFrame, definition: TableDefinition, filters: Filters | None = None, mix: bool = False) -> Table:
    """The table of ``definition``, filled with ``runs`` (one per row, columns of the store's schema).

    Args:
        mix: put runs that cannot be compared into one section; their rows say in what they differ.

    Raises:
        UsageError: when the filters leave nothing.
    """
    if definition.unavailable or runs.empty:
        return Table(definition.number, definition.title, (), (definition.unavailable or "No runs.", *definition.notes))
    filters = filters or Filters()
    runs, remarks = of_the_paper(arrange(runs, filters, definition.lines), definition, filters)
    if runs.empty:
        return Table(definition.number, definition.title, (), (*remarks, *definition.notes))
    by_suite = "suites" in definition.columns
    if by_suite:
        runs = runs.assign(protocol=runs["section"], section=[key[:4] + (None,) * (len(key) - 4) for key in runs["section"]])
    names = titles(in_order(runs["section"]))
    if mix and len(names) > 1:
        runs, names = _mixed(runs, names)
    elif len(names) > 1:
        remarks += (f"{len(names)} sections: their runs are not alike, so none is ranked against another's (--mix does that).",)
    scored = _scored(runs, definition)
    sizes = set(scored.groupby(["section", "row", "dataset"]).size())
    same_n = sizes.pop() if len(sizes) == 1 else None
    build = _suite_section if by_suite else _section
    sections = tuple(build(of_section(runs, key), definition, title, key, same_n is None) for key, title in names.items())
    cells = len(runs[["section", "row"]].drop_duplicates().merge(runs[["section", "dataset"]].drop_duplicates(), on="section"))
    filled = len(scored[["section", "row", "dataset"]].drop_duplicates())
    return Table(definition.number, definition.title, sections, footer_lines(runs, definition, same_n, filled, cells, remarks))


def _mixed(runs: pd.DataFrame, names: dict[tuple[Any, ...], str]) -> tuple[pd.DataFrame, dict[tuple[Any, ...], str]]:
    """All runs in one section, ``()``, and in each row's label what its section does not share with the others."""
    different = differences(names)
    rows = [
        f"{row} [{different[section]}]" if different[section] else row
        for row, section in zip(runs["row"], runs["section"], strict=True)
    ]
    several = f"Mixed: runs of {len(names)} sections, which differ in what the brackets say"
    return runs.assign(row=rows, section=pd.Series([()] * len(runs), index=runs.index, dtype=object)), {(): several}


def _scored(runs: pd.DataFrame, definition: TableDefinition) -> pd.DataFrame:
    """Runs that ended well and have a number of their own; only these enter cells."""
    return runs[(runs["status"] == "ok") & runs[definition.metric].notna() & ~runs["repeat"]]


def _section(runs: pd.DataFrame, definition: TableDefinition, title: str, key: tuple[Any, ...], show_n: bool) -> Section:
    data_sets = _columns(runs)
    means, notes = _means(runs, definition, data_sets)
    shown = data_sets if "datasets" in definition.columns else []
    columns = [*shown, *(Column("", mean.title, "mean", mean.key) for mean in means)]
    scored = _scored(runs, definition)
    scores = _scores(scored, definition.metric)

    def numbers(label: str) -> list[Cell]:
        own = scores.get(label, {})
        cells = [_score(own.get(column.name, {}), definition.decimals, show_n) for column in shown]
        return cells + [_mean(own, mean, definition.decimals, show_n) for mean in means]

    rows = _rows(runs, scored, definition, numbers, len(columns))
    columns += [Column("", cost.title, "cost", f"cost:{cost.column}") for cost in definition.costs]
    told = protocol(key, runs) if key else ("Ranks compare runs that are not alike, as asked for (--mix).",)
    return Section(title, tuple(columns), rows, (*told, *notes), _only_backbone(runs), _suites(runs))


def _suite_section(runs: pd.DataFrame, definition: TableDefinition, title: str, key: tuple[Any, ...], show_n: bool) -> Section:
    """Rows against suites: each column is the mean over a suite's data sets under one protocol."""
    kinds = [(suite, of) for suite in sorted(runs["suite"].dropna().unique()) for of in in_order(_protocols(runs, suite))]
    parts: list[tuple[_Mean, Scores]] = []
    notes: list[str] = []
    scored = _scored(runs, definition)
    for suite, of in kinds:
        others = [other for name, other in kinds if name == suite]
        versions = differences(titles(others))[of] if len(others) > 1 else ""
        own = runs[[name == suite and each == of for name, each in zip(runs["suite"], runs["protocol"], strict=True)]]
        means, absent = _suite_means(suite, own, versions)
        scores = _scores(scored.loc[scored.index.intersection(own.index)], definition.metric)
        parts += [(mean, scores) for mean in means]
        where = f"{suite} ({versions})" if versions else suite
        notes += [f"{where}: {protocol(of, own)[0]}"]
        notes += [f"No mean: of {suite}'s data sets {', '.join(absent)} has no run here."] if absent else []

    def numbers(label: str) -> list[Cell]:
        return [_mean(scores.get(label, {}), mean, definition.decimals, show_n) for mean, scores in parts]

    rows = _rows(runs, scored, definition, numbers, len(parts))
    columns = [Column("", mean.title, "mean", mean.key) for mean, _ in parts]
    columns += [Column("", cost.title, "cost", f"cost:{cost.column}") for cost in definition.costs]
    return Section(title, tuple(columns), rows, tuple(notes), _only_backbone(runs), _suites(runs))


def _protocols(runs: pd.DataFrame, suite: str) -> set[tuple[Any, ...]]:
    return set(runs.loc[runs["suite"] == suite, "protocol"])


def _suite_means(suite: str, runs: pd.DataFrame, version: str) -> tuple[list[_Mean], list[str]]:
    """The means of a suite, and its data sets that have no run."""
    card = known_suite(suite)
    groups = {column.name: column.group for column in _columns(runs)}
    names = card.datasets if card and card.datasets else tuple(groups)
    members = {name: groups[name] if name in groups else dataset_card(name).group for name in names}
    count = len(set(members.values()))
    kinds = [kind for kind in (card.means if card else ()) or ("datasets",) if kind == "datasets" or count > 1]
    tails = {"datasets": f"mean of {len(members)}", "groups": f"mean of {count} groups"}
    heads = [f"{suite}, {tails[kind]}" + (f", {version}" if version else "") for kind in kinds]
    means = [_Mean(head, f"suite:{suite}:{kind}", members, kind == "groups") for head, kind in zip(heads, kinds, strict=True)]
    return means, [name for name in names if name not in groups]


def _rows(
    runs: pd.DataFrame, scored: pd.DataFrame, definition: TableDefinition, numbers: Callable[[str], list[Cell]], ranked: int
) -> tuple[Row, ...]:
    """A row per label, in the definition's order: ``numbers`` of the label, then its costs."""
    pairs = set(zip(runs["method"], runs["row"]))
    first = {label: min(method for method, other in pairs if other == label) for _, label in pairs}
    order = sorted(first, key=lambda label: (definition.place(first[label], label), label))
    costs = dict(iter(scored.groupby("row")))
    rows = [
        Row(
            definition.group_of(first[label], label),
            label,
            (*numbers(label), *(_cost(costs.get(label, scored[:0]), cost) for cost in definition.costs)),
        )
        for label in order
    ]
    return _ranked(rows, ranked, definition.decimals)


def _only_backbone(runs: pd.DataFrame) -> str | None:
    names = runs["backbone"].dropna().unique()
    return str(names[0]) if len(names) == 1 else None


def _suites(runs: pd.DataFrame) -> tuple[str, ...]:
    return tuple(sorted(runs["suite"].dropna().unique()))


def _columns(runs: pd.DataFrame) -> list[Column]:
    """Data sets by group and name; a data set that two suites group differently stays in the first group by name."""
    pairs = sorted(set(zip(runs["dataset_group"].fillna(""), runs["dataset"])))
    groups = {dataset: group for group, dataset in reversed(pairs)}
    ordered = sorted(groups.items(), key=lambda item: item[::-1])
    return [Column(group, dataset, "score", f"dataset:{dataset}") for dataset, group in ordered]


def _means(runs: pd.DataFrame, definition: TableDefinition, columns: Sequence[Column]) -> tuple[list[_Mean], list[str]]:
    """The mean columns, and what to say below the section about the ones that cannot be computed.

    A suite that asks for means of its own gets them in every table, over its members in every group that has a run: without
    a run for each of them there is no mean, as that of 18 of VTAB's 19 tasks would pass for the mean of VTAB.
    """
    groups = {column.name: column.group for column in columns}
    if len(columns) < 2 and "datasets" in definition.columns:
        return [], []
    asking = [(name, card) for name in sorted(runs["suite"].dropna().unique()) if (card := known_suite(name)) and card.means]
    members = _members(asking[0][1], groups) if asking else groups
    if not members:  # data sets that the suite does not have any more
        asking, members = [], groups
    count = len(set(members.values()))
    kinds = asking[0][1].means if asking else definition.means
    named = {"datasets": f"Mean of {len(members)}", "groups": f"Mean of {count} groups"} if asking else _MEANS
    means = []
    if "groups" in definition.columns:
        for group in sorted(set(members.values())):
            own = {name: of for name, of in members.items() if of == group}
            means.append(_Mean(f"Mean of {group}", f"group:{group}", own, False))
    if "means" in definition.columns:
        wanted = [kind for kind in kinds if kind == "datasets" or count > 1]
        means += [_Mean(named[kind], f"mean:{kind}", members, kind == "groups") for kind in wanted]
    absent = [name for name in members if name not in groups]
    return means, [f"No mean: of {asking[0][0]}'s data sets {', '.join(absent)} has no run here."] if absent else []


def _members(suite: SuiteCard, groups: dict[str, str]) -> dict[str, str]:
    """The suite's data sets with their groups, in those groups that the table has a column of."""
    members = {name: groups[name] if name in groups else dataset_card(name).group for name in suite.datasets}
    present = {group for name, group in members.items() if name in groups}
    return {name: group for name, group in members.items() if group in present}


def _scores(scored: pd.DataFrame, metric: str) -> Scores:
    found: dict[str, dict[str, dict[int, float]]] = {}
    for row, dataset, seed, value in zip(scored["row"], scored["dataset"], scored["seed"], scored[metric], strict=True):
        found.setdefault(row, {}).setdefault(dataset, {})[seed] = float(value)
    return found


def _score(by_seed: Mapping[int, float], decimals: int, show_n: bool) -> Cell:
    if not by_seed:
        return Cell()
    values = pd.Series(by_seed, dtype=float)
    mean, n = _number(values.mean()), len(values)
    std = _number(values.std(ddof=1)) if n > 1 else None
    return Cell(f"{_spread(mean, std, decimals)}{f' ({n})' if show_n else ''}", mean, std, n)


def _spread(mean: float, std: float | None, decimals: int) -> str:
    return f"{mean:.{decimals}f}" + (f" ± {std:.{decimals}f}" if std is not None else "")


def _number(value: float) -> float:
    return round(float(value), 9)


def _mean(scores: Mapping[str, Mapping[int, float]], mean: _Mean, decimals: int, show_n: bool) -> Cell:
    """The mean over data sets or over group means; empty as soon as one data set is.

    Where all data sets have the same seeds, the deviation is that of the seeds' means.
    """
    if any(not scores.get(name) for name in mean.members):
        return Cell()
    number = _number(_average({name: sum(scores[name].values()) / len(scores[name]) for name in mean.members}, mean))
    seeds = [set(scores[name]) for name in mean.members]
    if any(own != seeds[0] for own in seeds):
        return Cell(f"{number:.{decimals}f}", number)
    std = None
    if len(seeds[0]) > 1:
        by_seed = [_average({name: scores[name][seed] for name in mean.members}, mean) for seed in sorted(seeds[0])]
        std = _number(pd.Series(by_seed).std(ddof=1))
    return Cell(f"{_spread(number, std, decimals)}{f' ({len(seeds[0])})' if show_n else ''}", number, std, len(seeds[0]))


def _average(values: Mapping[str, float], mean: _Mean) -> float:
    if not mean.over_groups:
        return sum(values.values()) / len(values)
    groups = sorted(set(mean.members.values()))
    own = [[values[name] for name, of in mean.members.items() if of == group] for group in groups]
    return sum(sum(each) / len(each) for each in own) / len(own)


def _cost(runs: pd.DataFrame, cost: CostColumn) -> Cell:
    """Mean over the data sets; as text a range where their numbers differ by more than rounding."""
    values = runs[["dataset", cost.column]].dropna()
    if values.empty:
        return Cell()
    scaled = values[cost.column].astype(float) / cost.scale
    per_data_set = scaled.groupby(values["dataset"]).mean()
    low, high = (_significant(value, cost.digits) for value in (per_data_set.min(), per_data_set.max()))
    mean = _number(per_data_set.mean())
    text = _significant(mean, cost.digits) if low == high or cost.show == "mean" else f"{low}{_RANGE}{high}"
    return Cell(text, mean, None, len(values))


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
