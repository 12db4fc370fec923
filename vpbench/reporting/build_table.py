"""From the frame to a table: which runs it shows, their sections, columns, and rows in order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import pandas as pd

from vpbench.core.errors import UsageError
from vpbench.models.registry import method_class
from vpbench.planning.suites import SuiteCard, group_of, suite_card, suite_names
from vpbench.reporting.cells import Mean, Scores, cost_cell, costs_of, mean_cell, score_cell, scores_of, with_ranks
from vpbench.reporting.definition import MEANS, TableDefinition
from vpbench.reporting.frame import Filters, arrange, known_methods, known_suite, of_section, sections_in
from vpbench.reporting.keys import ColumnKey, RowKey, SectionKey, split_name
from vpbench.reporting.notes import footer_lines, protocol
from vpbench.reporting.row_labels import differences
from vpbench.reporting.scores import MULTI_SCALE, score_titles
from vpbench.reporting.table import Cell, Column, Row, Section, Table

_MIXED = SectionKey()


def build_table(runs: pd.DataFrame, definition: TableDefinition, filters: Filters | None = None, mix: bool = False) -> Table:
    """The table of ``definition``, filled with ``runs`` (one per row, columns of the store's schema).

    Args:
        mix: put runs that cannot be compared into one section; the labels of their rows name the differences.

    Raises:
        UsageError: when the filters leave nothing.
    """
    if runs.empty:
        footer = ("No runs.", *definition.notes)
        return Table(definition.number, definition.title, (), footer, names=definition.names)
    filters = filters or Filters()
    runs, remarks = _select(arrange(runs, filters, definition.lines), definition, filters)
    if runs.empty:
        return Table(definition.number, definition.title_for(False), (), (*remarks, *definition.notes), names=definition.names)
    by_suite = "suites" in definition.columns
    if by_suite:
        models = {key: key.model for key in set(runs["section"])}
        runs = runs.assign(protocol=runs["section"], section=[models[key] for key in runs["section"]])
    keys = sections_in(runs)
    mix = mix and len(keys) > 1
    if mix:
        runs = _mixed(runs)
    elif len(keys) > 1:
        remarks += (f"{len(keys)} sections: their runs are not alike, so none is ranked against another's (--mix does that).",)
    scored = _scored(runs, definition)
    sizes = set(scored.groupby(["section", "row", "dataset"], sort=False).size())
    same_n = sizes.pop() if len(sizes) == 1 else None
    build = _suite_section if by_suite else _section
    empty = not mix and filters.method is None
    sections = [build(of_section(runs, key), definition, key, same_n is None, empty) for key in sections_in(runs)]
    if mix:
        caption = f"Mixed: runs of {len(keys)} sections, which differ in what the brackets say"
        sections = [replace(section, key=None, caption=caption) for section in sections]
    cells = len(runs[["section", "row"]].drop_duplicates().merge(runs[["section", "dataset"]].drop_duplicates(), on="section"))
    filled = len(scored[["section", "row", "dataset"]].drop_duplicates())
    footer = footer_lines(runs, definition, same_n, filled, cells, remarks)
    title = definition.title_for(_are_papers(runs, definition), score_titles(runs))
    return Table(definition.number, title, tuple(sections), footer, names=_names(runs, definition))


def _are_papers(runs: pd.DataFrame, definition: TableDefinition) -> bool:
    """Whether all runs are of the paper's data and backbones."""
    wanted = (("suite", definition.suites), ("backbone", _backbones(definition)))
    return all(runs[column].isin(names).all() for column, names in wanted if names)


def _backbones(definition: TableDefinition) -> frozenset[str]:
    """The paper's, those that it has for some rows only included."""
    return frozenset(definition.backbones).union(*definition.elsewhere.values())


def _names(runs: pd.DataFrame, definition: TableDefinition) -> dict[str, str]:
    """What a paper's table calls the rows: its own names, and the titles of methods that it does not have."""
    found = definition.names
    if not found:
        return {}
    for key in sorted(set(runs["row"])):
        if key.name not in found and key.method in known_methods():
            name = method_class(key.method).title + (f":{key.preset}" if key.preset else "")
            found |= {key.name: name} if name not in found.values() else {}
    return found


def _mixed(runs: pd.DataFrame) -> pd.DataFrame:
    """All runs in one section; the key of each row keeps what its own section was."""
    rows = [replace(row, protocol=section) for row, section in zip(runs["row"], runs["section"], strict=True)]
    return runs.assign(
        row=pd.Series(rows, index=runs.index, dtype=object),
        section=pd.Series([_MIXED] * len(runs), index=runs.index, dtype=object),
    )


# Which runs


def _select(runs: pd.DataFrame, definition: TableDefinition, filters: Filters) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """The runs for a table, and remarks for its footer.

    The paper's suites and backbones are shown alone when the store has runs of them; a column that the user filters is not
    restricted further. Without such runs the others are shown. A remark names what is missing and the command to run where some
    runs are of the paper's suites; to own data, and to other suites, a paper's whole grid adds nothing. A table without any run
    always names it.

    Args:
        runs: as :func:`arrange` returns them.
    """
    way = f" To fill this table: {' && '.join(definition.run)}" if definition.run else ""
    is_asked = runs["suite"].isin(definition.suites).any()
    fill = way if is_asked else ""
    remarks = _deleted(runs)
    if definition.task:
        kept = runs[runs["task"] == definition.task]
        if kept.empty:
            return kept, (f"No run here is of {definition.task}.{way}",)
        runs, remarks = kept, (*remarks, *_left_out(len(runs) - len(kept), "of another task"))
    if definition.listed_only:
        kept = runs[[definition.lists(row) for row in runs["row"]]]
        if kept.empty:
            return kept, (f"No run here is of {_listed(definition)}.{way}",)
        runs, remarks = kept, (*remarks, *_left_out(len(runs) - len(kept), "of other methods or options"))
    absent = []
    for column, wanted, chosen in (
        ("suite", definition.suites, filters.suite or filters.dataset),
        ("backbone", definition.backbones, filters.backbone),
    ):
        if not wanted or chosen:
            continue
        kept = runs[runs[column].isin(wanted) | _elsewhere(runs, column, definition)]
        if kept.empty:
            absent.append(f"{column} {wanted[0]}")
        else:
            others = sorted(set(runs[column].dropna()) - set(wanted))
            remarks += _left_out(len(runs) - len(kept), f"with another {column}: {', '.join(others)} (--{column} shows them)")
            runs = kept
    if absent and is_asked:
        remarks += (f"No run here has the paper's {' or '.join(absent)}; these are others.{fill}",)
        fill = ""
    return runs, (*remarks, *_missing_rows(runs, definition, filters, fill), *_missing_scales(runs, definition))


def _elsewhere(runs: pd.DataFrame, column: str, definition: TableDefinition) -> pd.Series[bool]:
    """Which runs are on a backbone that the paper has for their row alone."""
    if column != "backbone":
        return pd.Series(False, index=runs.index)
    of_rows = [
        backbone in definition.elsewhere.get(row.line or row.method, ())
        for row, backbone in zip(runs["row"], runs["backbone"], strict=True)
    ]
    return pd.Series(of_rows, index=runs.index)


def _deleted(runs: pd.DataFrame) -> tuple[str, ...]:
    names = sorted({split_name(str(method))[0] for method in runs["method"].dropna().unique()} - known_methods())
    return (f"Not in this version of vpbench, and shown as stored: {', '.join(names)}.",) if names else ()


def _left_out(count: int, why: str) -> tuple[str, ...]:
    return (f"Left out: {count} run{'s' if count > 1 else ''} {why}.",) if count else ()


def _listed(definition: TableDefinition) -> str:
    names = [name for rows in definition.rows for name in (*(line.label for line in rows.lines), *rows.methods)]
    return " or ".join(names)


def _missing_rows(runs: pd.DataFrame, definition: TableDefinition, filters: Filters, fill: str) -> tuple[str, ...]:
    """Which lines of the definition have no run and, on the paper's data and backbones, which other rows of the paper."""
    rows = {row.line or row.name for row in runs["row"] if not row.options}
    names = [line.label for line in definition.lines]
    if filters.method is None:
        backbones = sorted(runs.loc[runs["suite"].isin(definition.suites), "backbone"].dropna().unique())
        names += [key.name for backbone in backbones for key in definition.rows_on(backbone) if not key.line]
    missing = [definition.names.get(name, name) for name in dict.fromkeys(names) if name not in rows]
    return (f"No run here of {', '.join(missing)}.{fill}",) if missing else ()


def _missing_scales(runs: pd.DataFrame, definition: TableDefinition) -> tuple[str, ...]:
    """How runs that were scored on one scale alone get the others, of a table that shows several."""
    wanted = [cost.column for cost in definition.costs if cost.column in MULTI_SCALE] if definition.scales else []
    if not wanted or runs[wanted].notna().any(axis=None):
        return ()
    ratios = ",".join(f"{scale:g}" for scale in definition.scales)
    return (f"No run here has a score of several scales: repeat the command that made it with --scales {ratios}.",)


# Sections


def _scored(runs: pd.DataFrame, definition: TableDefinition) -> pd.DataFrame:
    """Runs that ended well and have a number of their own; only these enter cells."""
    return runs[(runs["status"] == "ok") & runs[definition.score].notna() & ~runs["repeat"]]


def _section(runs: pd.DataFrame, definition: TableDefinition, key: SectionKey, show_n: bool, empty: bool) -> Section:
    data_sets = _columns(runs)
    means, notes = _means(runs, definition, data_sets)
    shown = data_sets if "datasets" in definition.columns else []
    columns = [*shown, *(Column("", mean.title, "mean", mean.key) for mean in means)]
    scored = _scored(runs, definition)
    scores = scores_of(scored, definition.score)

    def numbers(row: RowKey) -> list[Cell]:
        own = scores.get(row, {})
        cells = [score_cell(own.get(column.name, {}), definition.decimals, show_n) for column in shown]
        return cells + [mean_cell(own, mean, definition.decimals, show_n) for mean in means]

    rows = _rows(runs, scored, definition, numbers, len(columns), empty)
    columns += [Column("", cost.title, "cost", ColumnKey("cost", cost.column)) for cost in definition.costs]
    mixed = "Ranks compare runs that are not alike, as asked for (--mix)."
    about = protocol(key, runs) if key != _MIXED else (mixed,)
    return Section(key, tuple(columns), rows, (*about, *notes), _only_backbone(runs), _suites(runs))


def _suite_section(runs: pd.DataFrame, definition: TableDefinition, key: SectionKey, show_n: bool, empty: bool) -> Section:
    """Rows against suites: each column is the mean over a suite's data sets under one protocol."""
    kinds = [(suite, of) for suite in sorted(runs["suite"].dropna().unique()) for of in _protocols(runs, suite)]
    parts: list[tuple[Mean, Scores]] = []
    notes: list[str] = []
    scored = _scored(runs, definition)
    for suite, of in kinds:
        others = [other for name, other in kinds if name == suite]
        versions = differences(others)[of] if len(others) > 1 else ""
        own = runs[[name == suite and each == of for name, each in zip(runs["suite"], runs["protocol"], strict=True)]]
        means, absent = _suite_means(suite, own, versions)
        scores = scores_of(scored.loc[scored.index.intersection(own.index)], definition.score)
        parts += [(mean, scores) for mean in means]
        where = f"{suite} ({versions})" if versions else suite
        notes += [f"{where}: {protocol(of, own)[0]}"]
        notes += [f"No mean: of {suite}'s data sets {_lacking(absent)} here."] if absent else []

    def numbers(row: RowKey) -> list[Cell]:
        return [mean_cell(scores.get(row, {}), mean, definition.decimals, show_n) for mean, scores in parts]

    rows = _rows(runs, scored, definition, numbers, len(parts), empty)
    columns = [Column("", mean.title, "mean", mean.key) for mean, _ in parts]
    columns += [Column("", cost.title, "cost", ColumnKey("cost", cost.column)) for cost in definition.costs]
    return Section(key, tuple(columns), rows, tuple(notes), _only_backbone(runs), _suites(runs))


def _protocols(runs: pd.DataFrame, suite: str) -> list[SectionKey]:
    return sorted(set(runs.loc[runs["suite"] == suite, "protocol"]))


def _suite_means(suite: str, runs: pd.DataFrame, version: str) -> tuple[list[Mean], list[str]]:
    """The means of a suite, and its data sets that have no run."""
    card = known_suite(suite)
    groups = {column.name: column.group for column in _columns(runs)}
    names = card.datasets if card and card.datasets else tuple(groups)
    members = {name: groups[name] if card is None or name in groups else group_of(card, name) for name in names}
    count = len(set(members.values()))
    kinds = [kind for kind in (card.means if card else ()) or ("datasets",) if kind == "datasets" or count > 1]
    tails = {"datasets": f"mean of {len(members)}", "groups": f"mean of {count} groups"}
    heads = [f"{suite}, {tails[kind]}" + (f", {version}" if version else "") for kind in kinds]
    means = [
        Mean(head, ColumnKey("suite", suite, kind), members, kind == "groups") for head, kind in zip(heads, kinds, strict=True)
    ]
    return means, [name for name in names if name not in groups]


def _rows(
    runs: pd.DataFrame, scored: pd.DataFrame, definition: TableDefinition, numbers: Callable[[RowKey], list[Cell]], ranked: int,
    empty: bool,
) -> tuple[Row, ...]:  # fmt: skip
    """All rows in the definition's order: their ``numbers``, then their costs.

    Args:
        empty: beside the paper's suite and backbone, add its rows that have no run.
    """
    costs = [(cost, costs_of(scored, cost.column)) for cost in definition.costs]
    printed = definition.rows_on(_only_backbone(runs)) if empty and set(_suites(runs)) & set(definition.suites) else ()
    rows = [
        Row(definition.group_of(key), key, (*numbers(key), *(cost_cell(found.get(key, {}), cost) for cost, found in costs)))
        for key in sorted({*runs["row"], *printed}, key=definition.order)
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
    return [Column(group, dataset, "score", ColumnKey("dataset", dataset)) for dataset, group in ordered]


def _means(runs: pd.DataFrame, definition: TableDefinition, columns: Sequence[Column]) -> tuple[list[Mean], list[str]]:
    """The mean columns, and a note for the section on the ones that cannot be computed.

    A suite that asks for means of its own gets them in every table, over all of its members: without a run for each of them
    there is no mean, as that of 18 of VTAB's 19 tasks would pass for the mean of VTAB. Runs of a part of it have the part's.
    """
    groups = {column.name: column.group for column in columns}
    if len(columns) < 2 and "datasets" in definition.columns:
        return [], []
    asking = [(name, card) for name in sorted(runs["suite"].dropna().unique()) if (card := known_suite(name)) and card.means]
    part, members = _members(*asking[0], groups) if asking else ("", groups)
    if not set(members) & set(groups):  # data sets that the suite does not have any more
        asking, members = [], groups
    count = len(set(members.values()))
    kinds = asking[0][1].means if asking else definition.means
    named = {"datasets": f"Mean of {len(members)}", "groups": f"Mean of {count} groups"} if asking else MEANS
    means = []
    if "groups" in definition.columns:
        for group in sorted({group for name, group in members.items() if name in groups}):
            own = {name: of for name, of in members.items() if of == group}
            means.append(Mean(f"Mean of {group}", ColumnKey("group", group), own, False))
    if "means" in definition.columns:
        wanted = [kind for kind in kinds if kind == "datasets" or count > 1]
        means += [Mean(named[kind], ColumnKey("mean", part, kind), members, kind == "groups") for kind in wanted]
    absent = [name for name in members if name not in groups]
    return means, [f"No mean: of {asking[0][0]}'s data sets {_lacking(absent)} here."] if absent else []


def _members(whole: str, suite: SuiteCard, groups: dict[str, str]) -> tuple[str, dict[str, str]]:
    """The data sets of a suite's means with their groups: all, or those of the part that has the table's, with its name."""
    members = {name: groups[name] if name in groups else group_of(suite, name) for name in suite.datasets}
    present = {name: group for name, group in members.items() if name in groups}
    part = _part(whole, set(present)) if 0 < len(present) < len(members) else ""
    return (part, present) if part else ("", members)


def _part(whole: str, datasets: set[str]) -> str:
    """The part of a suite that has just these data sets; empty for none."""
    for name in suite_names():
        try:
            card = suite_card(name)
        except UsageError:  # another suite's card is no matter of this table
            continue
        if card.part_of == whole and set(card.datasets) == datasets:
            return name
    return ""


def _lacking(names: Sequence[str]) -> str:
    return f"{', '.join(names)} {'has' if len(names) == 1 else 'have'} no run"
