"""All methods over all data sets: mean ranks, and the tests of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from itertools import combinations
from statistics import fmean
from typing import Any

import pandas as pd

from vpbench.reporting.cells import p_is, p_text
from vpbench.reporting.definition import TableDefinition
from vpbench.reporting.frame import Filters, arrange, of_section, scored_runs, sections_in
from vpbench.reporting.keys import ColumnKey, RowKey
from vpbench.reporting.method_groups import group_place, group_title
from vpbench.reporting.notes import seen_in_training
from vpbench.reporting.row_labels import row_label, row_labels, section_titles
from vpbench.reporting.statistics import LEAST_WILCOXON, Friedman, TooFewError, friedman, holm, wilcoxon_p, wins
from vpbench.reporting.table import Cell, Column, Row, Section, Table

_HOW = (
    "One score per method and data set: the mean of its seeds. Wins/ties/losses: the row's method against all others, or against"
    " the one that the column names. Nemenyi: all pairs after Friedman's test."
)
_PAIRS = "Wilcoxon: signed-rank test of the differences, two-sided, adjusted by Holm for all pairs."
LARGEST_SQUARE = 15  # so many methods are shown pair by pair; a page has no room for more


def statistics_table(
    runs: pd.DataFrame, definition: TableDefinition, filters: Filters, mix: bool = False, every_pair: bool = False
) -> Table:
    """Mean ranks with Friedman's test, Nemenyi's and Wilcoxon's p of every pair, and wins, ties and losses; by section.

    Args:
        mix: all sections together; a data set counts once per section, and only in sections that have every method.
        every_pair: all pairs, however many methods there are.
    """
    runs = scored_runs(arrange(runs, filters))
    if runs.empty:
        return Table("", "All methods over all data sets", (), ("No run has a number.",))
    mixed = "all sections together, as asked for (--mix)"
    titles = {None: mixed} if mix else section_titles(sections_in(runs))
    sections: list[Section] = []
    notes: list[str] = []
    for key, title in titles.items():
        own = of_section(runs, key) if key else runs
        scores = _complete(own, definition)
        if scores.shape[1] < 2 or scores.empty:
            names = ", ".join(row_labels(_rows(scores)).values())
            few = "there is one method" if scores.shape[1] < 2 else f"no data set has {names}, --method leaves some out"
            notes.append(f"{title}: nothing to compare: {few}.")
            continue
        squares = every_pair or scores.shape[1] <= LARGEST_SQUARE
        found = _all_methods(scores, RowKey(definition.reference), _dropped(own, scores), squares)
        sections += [replace(each, key=key, caption=each.caption if key else f"{each.caption}: {mixed}") for each in found]
    how = [_HOW, *([_PAIRS] if any(len(section.rows) <= LARGEST_SQUARE for section in sections) or every_pair else [])]
    return Table(
        "",
        "All methods over all data sets",
        tuple(sections),
        (*notes, *how, *seen_in_training(runs)),
        tuple(sections_in(runs)),
    )


def _complete(runs: pd.DataFrame, definition: TableDefinition) -> pd.DataFrame:
    """Data sets x rows, without data sets that a row lacks."""
    means = runs.groupby(["section", "dataset", "row"])["score"].mean().unstack("row")
    rows: list[Any] = sorted(means.columns, key=definition.order)  # type: ignore[arg-type]
    return means[rows].dropna().astype(float)


def _dropped(runs: pd.DataFrame, scores: pd.DataFrame) -> list[str]:
    lost = sorted(set(runs["dataset"]) - {name for _, name in scores.index})
    return [f"Left out, as not every method has them: {', '.join(lost)}."] if lost else []


def _all_methods(scores: pd.DataFrame, reference: RowKey, notes: list[str], squares: bool) -> list[Section]:
    """Mean ranks, best first, wins against all methods and against ``reference``, and the tests; with ``squares`` every pair."""
    ranks = scores.rank(axis=1, ascending=False).mean().sort_values(kind="stable")
    scores = scores[ranks.index]
    tested, about = _tested(scores)
    columns = _rank_columns(scores, ranks, reference, tested)
    titles = tuple(Column("", title, "test", ColumnKey("test", name)) for name, (title, _) in columns.items())
    rows = tuple(Row("", method, tuple(cells[method] for _, cells in columns.values())) for method in _rows(scores))
    apart = [] if squares else [f"All pairs of {len(rows)} methods: with --format json or csv; --method keeps fewer."]
    lines = (*notes, *_by_group(ranks), about, *apart)
    first = Section(None, titles, rows, lines, caption="Mean ranks, 1 is best")
    return [first, _pairwise(scores), *([_nemenyi(tested)] if tested else [])] if squares else [first]


def _tested(scores: pd.DataFrame) -> tuple[Friedman | None, str]:
    """Friedman's test, and a line on it; None where there is too little for it."""
    n, methods = scores.shape
    try:
        found = friedman(scores)
    except TooFewError as error:
        return None, f"Friedman and Nemenyi: not tested. {error}."
    return found, (
        f"Friedman's test over {n} data sets and {methods} methods: chi2 = {found.statistic:.2f} with {methods - 1}"
        f" degrees of freedom, {p_is(found.p)}{', approximate below 10 data sets' if n < 10 else ''}."
        f" Critical difference of mean ranks at 5 % (Nemenyi): {found.critical:.2f}."
    )


def _rank_columns(
    scores: pd.DataFrame, ranks: pd.Series[float], reference: RowKey, tested: Friedman | None
) -> dict[str, tuple[str, dict[RowKey, Cell]]]:
    """Title and cells of every column of the first table, by its key."""
    methods = _rows(scores)
    columns: dict[str, tuple[str, dict[RowKey, Cell]]] = {
        "rank": ("Mean rank", {name: _plain(ranks[name], 2) for name in methods}),
        "mean": (f"Mean of {len(scores)}", {name: _plain(scores[name].mean(), 1) for name in methods}),
        "record": ("Wins/ties/losses", {name: _against(scores, name, methods) for name in methods}),
    }
    if reference in methods:
        title = f"Against {row_label(reference)}"
        columns["reference"] = (title, {name: _against(scores, name, [reference]) for name in methods})
    if tested:
        first = tested.nemenyi[methods[0]]
        columns["nemenyi"] = (
            "Nemenyi's p, against the first", {name: _p_cell(first[name], name == methods[0]) for name in methods}
        )  # fmt: skip
    return columns


def _by_group(ranks: pd.Series[float]) -> list[str]:
    """A line on the mean ranks of groups of methods, where there are several."""
    named: dict[str, list[float]] = {}
    for row in sorted(_keys(ranks), key=lambda row: group_place(row.method)):
        named.setdefault(group_title(row.method).lower() or "other methods", []).append(float(ranks[row]))
    parts = [f"{name} {fmean(own):.2f} ({len(own)}, from {min(own):.2f} to {max(own):.2f})" for name, own in named.items()]
    return [f"Mean rank by group of methods: {'; '.join(parts)}."] if len(named) > 1 else []


def _keys(ranks: pd.Series[float]) -> list[Any]:
    return list(ranks.index)


def _nemenyi(tested: Friedman) -> Section:
    names: list[Any] = list(tested.nemenyi.columns)
    return _square(
        "Nemenyi's p", {name: [_p_cell(tested.nemenyi.loc[name, other], name == other) for other in names] for name in names}
    )


def _against(scores: pd.DataFrame, name: RowKey, others: Iterable[RowKey]) -> Cell:
    """Wins, ties and losses of one method against others on each data set."""
    gaps = [scores[name] - scores[other] for other in others if other != name]
    return Cell("/".join(map(str, wins(gaps)))) if gaps else Cell()


def _pairwise(scores: pd.DataFrame) -> Section:
    """Wins, ties and losses of every pair, with Wilcoxon's p where there are data sets enough."""
    methods = _rows(scores)
    pairs = list(combinations(methods, 2))
    note = f"Wilcoxon's p, adjusted by Holm for {len(pairs)} pairs, in parentheses."
    p_values: dict[tuple[RowKey, RowKey], float] = {}
    try:
        p_values = dict(zip(pairs, holm([wilcoxon_p(scores[a] - scores[b]) for a, b in pairs]).tolist(), strict=True))
    except TooFewError:
        note = f"Wilcoxon: not tested. It needs {LEAST_WILCOXON} data sets, and there are {len(scores)}."
    cells = {
        a: [Cell() if a == b else _record(scores[a] - scores[b], p_values.get((a, b), p_values.get((b, a)))) for b in methods]
        for a in methods
    }
    return _square("Wins/ties/losses", cells, (note,))


def _rows(scores: pd.DataFrame) -> list[Any]:
    """The columns, which are keys of rows."""
    return list(scores.columns)


def _record(gaps: pd.Series[float], p: float | None) -> Cell:
    record = "/".join(map(str, wins(gaps)))
    return Cell(record if p is None else f"{record} ({p_text(p)})", p)


def _square(caption: str, cells: dict[RowKey, list[Cell]], notes: tuple[str, ...] = ()) -> Section:
    columns = tuple(Column("", "", "test", key) for key in cells)
    return Section(None, columns, tuple(Row("", key, tuple(own)) for key, own in cells.items()), notes, caption=caption)


def _p_cell(value: Any, diagonal: bool) -> Cell:
    return Cell() if diagonal else Cell(p_text(float(value)), float(value))


def _plain(value: float, decimals: int) -> Cell:
    return Cell(f"{value:.{decimals}f}", round(float(value), 9))
