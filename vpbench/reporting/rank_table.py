"""All methods over all data sets: mean ranks, and the tests of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from itertools import combinations
from typing import Any

import pandas as pd

from vpbench.reporting.cells import p_is, p_text
from vpbench.reporting.definition import TableDefinition
from vpbench.reporting.frame import Filters, arrange, of_section, scored_runs, sections_in
from vpbench.reporting.keys import ColumnKey, RowKey
from vpbench.reporting.notes import seen_in_training
from vpbench.reporting.row_labels import row_label, row_labels, section_titles
from vpbench.reporting.statistics import LEAST_WILCOXON, TooFewError, friedman, holm, wilcoxon_p, wins
from vpbench.reporting.table import Cell, Column, Row, Section, Table

_HOW = (
    "One score per method and data set: the mean of its seeds. Wins/ties/losses: the row's method against all others, or against"
    " the one that the column names. Nemenyi: all pairs after Friedman's test. Wilcoxon: signed-rank test of the differences,"
    " two-sided, adjusted by Holm for all pairs."
)
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
    return Table(
        "",
        "All methods over all data sets",
        tuple(sections),
        (*notes, _HOW, *seen_in_training(runs)),
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
    n, ranks = len(scores), scores.rank(axis=1, ascending=False).mean().sort_values(kind="stable")
    scores = scores[ranks.index]
    methods = _rows(scores)
    titles = {"rank": "Mean rank", "mean": f"Mean of {n}", "record": "Wins/ties/losses"}
    cells = {name: [_plain(ranks[name], 2), _plain(scores[name].mean(), 1), _against(scores, name, methods)] for name in methods}
    if reference in methods:
        titles["reference"] = f"Against {row_label(reference)}"
        cells = {name: [*own, _against(scores, name, [reference])] for name, own in cells.items()}
    tables = [_pairwise(scores)] if squares else []
    try:
        found = friedman(scores)
        notes.append(
            f"Friedman's test over {n} data sets and {len(methods)} methods: chi2 = {found.statistic:.2f} with {len(methods) - 1}"
            f" degrees of freedom, {p_is(found.p)}{', approximate below 10 data sets' if n < 10 else ''}."
            f" Critical difference of mean ranks at 5 % (Nemenyi): {found.critical:.2f}."
        )
        against = {name: [_p_cell(found.nemenyi.loc[name, other], name == other) for other in methods] for name in methods}
        titles["nemenyi"] = "Nemenyi's p, against the first"
        cells = {name: [*own, against[name][0]] for name, own in cells.items()}
        tables += [_square("Nemenyi's p", against)] if squares else []
    except TooFewError as error:
        notes.append(f"Friedman and Nemenyi: not tested. {error}.")
    if not squares:
        notes.append(f"All pairs of {len(methods)} methods: with --format json or csv; --method keeps fewer.")
    columns = tuple(Column("", title, "test", ColumnKey("test", key)) for key, title in titles.items())
    rows = tuple(Row("", name, tuple(own)) for name, own in cells.items())
    return [Section(None, columns, rows, tuple(notes), caption="Mean ranks, 1 is best"), *tables]


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
