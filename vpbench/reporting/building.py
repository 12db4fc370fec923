"""From runs to a table: sections, their columns, and the rows in order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd

from vpbench.data.catalog import dataset_card
from vpbench.planning.suites import SuiteCard
from vpbench.reporting.cells import Mean, Scores, cost_cell, costs_of, mean_cell, score_cell, scores_of, with_ranks
from vpbench.reporting.definition import MEANS, TableDefinition
from vpbench.reporting.footer import footer_lines
from vpbench.reporting.runs import Filters, arrange, known_suite, of_section
from vpbench.reporting.sections import differences, in_order, protocol, titles
from vpbench.reporting.selection import of_the_paper
from vpbench.reporting.table import Cell, Column, Row, Section, Table


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
    scores = scores_of(scored, definition.metric)

    def numbers(label: str) -> list[Cell]:
        own = scores.get(label, {})
        cells = [score_cell(own.get(column.name, {}), definition.decimals, show_n) for column in shown]
        return cells + [mean_cell(own, mean, definition.decimals, show_n) for mean in means]

    rows = _rows(runs, scored, definition, numbers, len(columns))
    columns += [Column("", cost.title, "cost", f"cost:{cost.column}") for cost in definition.costs]
    told = protocol(key, runs) if key else ("Ranks compare runs that are not alike, as asked for (--mix).",)
    return Section(title, tuple(columns), rows, (*told, *notes), _only_backbone(runs), _suites(runs))


def _suite_section(runs: pd.DataFrame, definition: TableDefinition, title: str, key: tuple[Any, ...], show_n: bool) -> Section:
    """Rows against suites: each column is the mean over a suite's data sets under one protocol."""
    kinds = [(suite, of) for suite in sorted(runs["suite"].dropna().unique()) for of in in_order(_protocols(runs, suite))]
    parts: list[tuple[Mean, Scores]] = []
    notes: list[str] = []
    scored = _scored(runs, definition)
    for suite, of in kinds:
        others = [other for name, other in kinds if name == suite]
        versions = differences(titles(others))[of] if len(others) > 1 else ""
        own = runs[[name == suite and each == of for name, each in zip(runs["suite"], runs["protocol"], strict=True)]]
        means, absent = _suite_means(suite, own, versions)
        scores = scores_of(scored.loc[scored.index.intersection(own.index)], definition.metric)
        parts += [(mean, scores) for mean in means]
        where = f"{suite} ({versions})" if versions else suite
        notes += [f"{where}: {protocol(of, own)[0]}"]
        notes += [f"No mean: of {suite}'s data sets {', '.join(absent)} has no run here."] if absent else []

    def numbers(label: str) -> list[Cell]:
        return [mean_cell(scores.get(label, {}), mean, definition.decimals, show_n) for mean, scores in parts]

    rows = _rows(runs, scored, definition, numbers, len(parts))
    columns = [Column("", mean.title, "mean", mean.key) for mean, _ in parts]
    columns += [Column("", cost.title, "cost", f"cost:{cost.column}") for cost in definition.costs]
    return Section(title, tuple(columns), rows, tuple(notes), _only_backbone(runs), _suites(runs))


def _protocols(runs: pd.DataFrame, suite: str) -> set[tuple[Any, ...]]:
    return set(runs.loc[runs["suite"] == suite, "protocol"])


def _suite_means(suite: str, runs: pd.DataFrame, version: str) -> tuple[list[Mean], list[str]]:
    """The means of a suite, and its data sets that have no run."""
    card = known_suite(suite)
    groups = {column.name: column.group for column in _columns(runs)}
    names = card.datasets if card and card.datasets else tuple(groups)
    members = {name: groups[name] if name in groups else dataset_card(name).group for name in names}
    count = len(set(members.values()))
    kinds = [kind for kind in (card.means if card else ()) or ("datasets",) if kind == "datasets" or count > 1]
    tails = {"datasets": f"mean of {len(members)}", "groups": f"mean of {count} groups"}
    heads = [f"{suite}, {tails[kind]}" + (f", {version}" if version else "") for kind in kinds]
    means = [Mean(head, f"suite:{suite}:{kind}", members, kind == "groups") for head, kind in zip(heads, kinds, strict=True)]
    return means, [name for name in names if name not in groups]


def _rows(
    runs: pd.DataFrame, scored: pd.DataFrame, definition: TableDefinition, numbers: Callable[[str], list[Cell]], ranked: int
) -> tuple[Row, ...]:
    """A row per label, in the definition's order: ``numbers`` of the label, then its costs."""
    pairs = set(zip(runs["method"], runs["row"]))
    first = {label: min(method for method, other in pairs if other == label) for _, label in pairs}
    order = sorted(first, key=lambda label: (definition.place(first[label], label), label))
    costs = [(cost, costs_of(scored, cost.column)) for cost in definition.costs]
    rows = [
        Row(
            definition.group_of(first[label], label),
            label,
            (*numbers(label), *(cost_cell(found.get(label, {}), cost) for cost, found in costs)),
        )
        for label in order
    ]
    return with_ranks(rows, ranked, definition.decimals)


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


def _means(runs: pd.DataFrame, definition: TableDefinition, columns: Sequence[Column]) -> tuple[list[Mean], list[str]]:
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
    named = {"datasets": f"Mean of {len(members)}", "groups": f"Mean of {count} groups"} if asking else MEANS
    means = []
    if "groups" in definition.columns:
        for group in sorted(set(members.values())):
            own = {name: of for name, of in members.items() if of == group}
            means.append(Mean(f"Mean of {group}", f"group:{group}", own, False))
    if "means" in definition.columns:
        wanted = [kind for kind in kinds if kind == "datasets" or count > 1]
        means += [Mean(named[kind], f"mean:{kind}", members, kind == "groups") for kind in wanted]
    absent = [name for name in members if name not in groups]
    return means, [f"No mean: of {asking[0][0]}'s data sets {', '.join(absent)} has no run here."] if absent else []


def _members(suite: SuiteCard, groups: dict[str, str]) -> dict[str, str]:
    """The suite's data sets with their groups, in those groups that the table has a column of."""
    members = {name: groups[name] if name in groups else dataset_card(name).group for name in suite.datasets}
    present = {group for name, group in members.items() if name in groups}
    return {name: group for name, group in members.items() if group in present}
