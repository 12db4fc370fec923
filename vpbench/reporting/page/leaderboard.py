"""The leaderboard: the table ``vpbench/leaderboard`` with the links and values that sorting and filtering need."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import pandas as pd

from vpbench.reporting.build_table import build_table
from vpbench.reporting.definition import leaderboard
from vpbench.reporting.describe import fidelity_words
from vpbench.reporting.frame import Filters, arrange, is_missing, of_section
from vpbench.reporting.keys import RowKey
from vpbench.reporting.page.links import Place, method_file
from vpbench.reporting.quantities import quantity
from vpbench.reporting.row_labels import row_label, section_titles
from vpbench.reporting.table import Cell, Column, Row, Section


@dataclass(frozen=True)
class Heading:
    """A column's heading. ``first`` is the direction that a first click sorts in: the best comes first."""

    name: str
    kind: str
    group: str
    first: str


@dataclass(frozen=True)
class Number:
    """A cell: ``text`` without its spread, ``spread`` and ``n`` where there are any, ``value`` to sort by."""

    text: str
    spread: str
    n: str
    value: str
    rank: int | None
    href: str


@dataclass(frozen=True)
class BoardLine:
    """A row, and what the page's filters match."""

    label: str
    href: str
    fidelity: str
    method: str
    suites: str
    datasets: str
    search: str
    numbers: tuple[Number, ...]


@dataclass(frozen=True)
class Board:
    """One section of comparable rows."""

    anchor: str
    title: str
    backbone: str
    suites: tuple[str, ...]
    groups: tuple[tuple[str, int], ...]
    headings: tuple[Heading, ...]
    lines: tuple[BoardLine, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class SeedRun:
    """A run as a link: its seed, and its accuracy or its status."""

    seed: str
    text: str
    status: str
    href: str


@dataclass(frozen=True)
class Tally:
    """The runs of a row on one data set."""

    anchor: str
    label: str
    dataset: str
    number: Number
    runs: tuple[SeedRun, ...]


@dataclass(frozen=True)
class Results:
    """What a method reached in one section."""

    title: str
    tallies: tuple[Tally, ...]


@dataclass(frozen=True)
class Standings:
    """All of it: the boards, the lines below them, and the results by method."""

    boards: tuple[Board, ...]
    footer: tuple[str, ...]
    results: dict[str, list[Results]]


def standings(runs: pd.DataFrame, filters: Filters, places: dict[Any, Place]) -> Standings:
    """Boards of the filtered runs.

    Args:
        runs: of the whole store.
        places: page of each run, by its label in the index of ``runs``.

    Raises:
        UsageError: when the filters leave nothing.
    """
    definition = leaderboard()
    table = build_table(runs, definition, filters)
    arranged = arrange(runs, filters)
    titles = section_titles(section.key for section in table.sections if section.key)
    boards: list[Board] = []
    results: dict[str, list[Results]] = {}
    for number, section in enumerate(table.sections, 1):
        assert section.key is not None  # nothing is mixed here
        own = of_section(arranged, section.key)
        by_row: dict[Any, pd.DataFrame] = dict(list(own.groupby("row", sort=False)))
        lines = [_Line(row, by_row[row.key], section.columns, definition.decimals) for row in section.rows]
        anchors: dict[tuple[RowKey, str], str] = {}
        found: dict[str, list[Tally]] = {}
        for place, line in enumerate(lines, 1):
            for tally in _tallies(line, f"s{number}-{place}", places):
                anchors[line.key, tally.dataset] = f"{method_file(line.key.method)}#{tally.anchor}"
                found.setdefault(line.key.method, []).append(tally)
        for method, tallies in found.items():
            results.setdefault(method, []).append(Results(titles[section.key], tuple(tallies)))
        boards.append(_board(f"section-{number}", titles[section.key], section, own, lines, anchors))
    return Standings(tuple(boards), table.footer, results)


@dataclass(frozen=True)
class _Line:
    """A row of a table with its runs."""

    row: Row
    runs: pd.DataFrame
    columns: tuple[Column, ...]
    decimals: int

    @property
    def key(self) -> RowKey:
        assert isinstance(self.row.key, RowKey)  # only what a paper reports has no key of ours
        return self.row.key

    @property
    def scores(self) -> list[tuple[int, str, Cell]]:
        """Position, data set and cell of the columns of data sets."""
        cells = zip(self.columns, self.row.cells, strict=True)
        return [(place, column.name, cell) for place, (column, cell) in enumerate(cells) if column.kind == "score"]

    def number(self, place: int, href: str = "") -> Number:
        column, cell = self.columns[place], self.row.cells[place]
        value = "" if cell.mean is None else f"{cell.mean:.9g}"
        if column.kind == "cost" or cell.mean is None:
            return Number(cell.text, "", "", value, cell.rank, href)
        spread = "" if cell.std is None else f"{cell.std:.{self.decimals}f}"
        n = f"{cell.n}" if cell.n is not None and column.kind == "score" else ""
        return Number(f"{cell.mean:.{self.decimals}f}", spread, n, value, cell.rank, href)


def _board(
    anchor: str,
    title: str,
    section: Section,
    own: pd.DataFrame,
    lines: Sequence[_Line],
    anchors: dict[tuple[RowKey, str], str],
) -> Board:
    return Board(
        anchor,
        title,
        str(own["backbone"].iloc[0]),
        tuple(sorted(own["suite"].dropna().unique())),
        _groups(section.columns),
        tuple(Heading(c.name, c.kind, c.group, "ascending" if c.kind == "cost" else "descending") for c in section.columns),
        tuple(_board_line(line, title, anchors) for line in lines),
        (*section.notes, *_machines(own)),
    )


def _groups(columns: Sequence[Column]) -> tuple[tuple[str, int], ...]:
    """Headings above the columns with their spans; none when all data sets are of one group."""
    spans = tuple((group, len(list(members))) for group, members in groupby(columns, key=lambda column: column.group))
    return spans if len({group for group, _ in spans if group}) > 1 else ()


def _board_line(line: _Line, title: str, anchors: dict[tuple[RowKey, str], str]) -> BoardLine:
    fidelity = ", ".join(fidelity_words(value) for value in sorted(line.runs["fidelity"].dropna().unique()))
    suites = sorted(line.runs["suite"].dropna().unique())
    hrefs = {place: anchors.get((line.key, dataset), "") for place, dataset, _ in line.scores}
    label = row_label(line.key)
    return BoardLine(
        label,
        method_file(line.key.method),
        fidelity,
        line.key.method,
        json.dumps(suites),
        json.dumps([dataset for _, dataset, cell in line.scores if cell.mean is not None]),
        " ".join([label, fidelity, title, *suites]).lower(),
        tuple(line.number(place, hrefs.get(place, "")) for place in range(len(line.columns))),
    )


def _tallies(line: _Line, anchor: str, places: dict[Any, Place]) -> list[Tally]:
    columns = ["dataset", "seed", "run_id", "status", "score", "repeat"]
    by_dataset: dict[str, list[SeedRun]] = {}
    for index, dataset, seed, _, status, score, repeat in line.runs[columns].sort_values(columns[:3]).itertuples(name=None):
        run = SeedRun(quantity("seed", seed), _outcome(status, score, bool(repeat)), str(status), f"../{places[index].href}")
        by_dataset.setdefault(str(dataset), []).append(run)
    return [
        Tally(f"{anchor}-{place + 1}", row_label(line.key), dataset, line.number(place), tuple(by_dataset[dataset]))
        for place, dataset, _ in line.scores
        if dataset in by_dataset
    ]


def _outcome(status: Any, score: Any, repeat: bool) -> str:
    if status != "ok":
        return str(status)
    text = "no accuracy" if is_missing(score) else f"{score:.1f}"
    return f"{text}, a repetition" if repeat else text


def _machines(own: pd.DataFrame) -> tuple[str, ...]:
    """Where latency and memory were measured."""
    columns = ["device_name", "device", "threads", "torch"]
    found = []
    for name, device, threads, torch in (
        own.loc[own["status"] == "ok", columns].drop_duplicates().itertuples(index=False, name=None)
    ):
        if is_missing(name) and is_missing(device):
            continue
        parts = [quantity("device", name), quantity("device", device)]
        parts += [f"{int(threads)} thread{'' if threads == 1 else 's'}"] if device == "cpu" and not is_missing(threads) else []
        parts += [f"torch {torch}"] if not is_missing(torch) else []
        found.append(", ".join(parts))
    if not found:
        return ()
    several = " They differ, so compare latencies with care." if len(found) > 1 else ""
    return (f"Measured on: {'; '.join(sorted(found))}.{several}",)
