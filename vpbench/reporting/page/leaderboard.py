"""The leaderboard: the sections and rows of the tables, with what sorting, filtering and links need."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import pandas as pd

from vpbench.reporting.building import build_table
from vpbench.reporting.definition import TableDefinition
from vpbench.reporting.page.file_names import base_method, method_file
from vpbench.reporting.page.links import Place
from vpbench.reporting.page.quantities import is_missing, quantity
from vpbench.reporting.runs import Filters, arrange, of_section
from vpbench.reporting.sections import in_order, titles
from vpbench.reporting.table import Cell, Column, Section, Table

# As a file of reports/tables would say it: every method, in the order of the papers' tables, and what it costs.
_DEFINITION = {
    "title": "Leaderboard",
    "paper": "vpbench",
    "number": "",
    "rows": [
        {"group": "Linear probing", "methods": ["linear"]},
        {"group": "Prompts", "methods": ["vpt", "e2vpt", "insvp", "viapt", "ivpt"]},
    ],
    "costs": [
        {
            "column": "params_trainable",
            "title": "Params (M)",
            "scale": 1e6,
            "note": "Params: trained parameters in millions, head included.",
        },
        {
            "column": "flops_forward",
            "title": "FLOPs (G)",
            "scale": 1e9,
            "note": "FLOPs: forward pass of one image in billions, 2 per multiply-add.",
        },
        {
            "column": "latency_ms_p50",
            "title": "Latency (ms)",
            "note": "Latency: inference of one image, median, on the machine of the run. A range covers several data sets.",
        },
        {
            "column": "mem_train_peak",
            "title": "Memory (MiB)",
            "scale": 2**20,
            "note": "Memory: peak in training; of the GPU's allocator, or of the whole process on a CPU.",
        },
    ],
}


@dataclass(frozen=True)
class Heading:
    """A column's heading. ``first`` is the direction that a first click sorts in: the best comes first."""

    name: str
    kind: str
    group: str
    first: str


@dataclass(frozen=True)
class Number:
    """A cell: ``text`` without its spread, ``spread`` and ``n`` where they are known, ``value`` to sort by."""

    text: str
    spread: str
    n: str
    value: str
    rank: int | None
    href: str


@dataclass(frozen=True)
class Line:
    """A row, and what filters ask about it."""

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
    lines: tuple[Line, ...]
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
    table: Table = build_table(runs, TableDefinition.model_validate(_DEFINITION), filters)
    arranged = arrange(runs, filters)
    keys = {title: key for key, title in titles(in_order(arranged["section"])).items()}
    boards: list[Board] = []
    results: dict[str, list[Results]] = {}
    for number, section in enumerate(table.sections, 1):
        own = of_section(arranged, keys[section.title])
        by_row = {str(label): part for label, part in own.groupby("row")}
        anchors: dict[tuple[str, str], str] = {}
        found: dict[str, list[Tally]] = {}
        for place, row in enumerate(section.rows, 1):
            method = base_method(str(by_row[row.label]["method"].iloc[0]))
            for tally in _tallies(section, row.label, row.cells, by_row[row.label], f"s{number}-{place}", places):
                anchors[row.label, tally.dataset] = f"{method_file(method)}#{tally.anchor}"
                found.setdefault(method, []).append(tally)
        for method, tallies in found.items():
            results.setdefault(method, []).append(Results(section.title, tuple(tallies)))
        boards.append(_board(f"section-{number}", section, own, by_row, anchors))
    return Standings(tuple(boards), table.footer, results)


def _board(
    anchor: str, section: Section, own: pd.DataFrame, by_row: dict[str, pd.DataFrame], anchors: dict[tuple[str, str], str]
) -> Board:
    return Board(
        anchor,
        section.title,
        str(own["backbone"].iloc[0]),
        tuple(sorted(own["suite"].dropna().unique())),
        _groups(section.columns),
        tuple(Heading(c.name, c.kind, c.group, "ascending" if c.kind == "cost" else "descending") for c in section.columns),
        tuple(_line(section, row.label, row.cells, by_row[row.label], anchors) for row in section.rows),
        (*section.notes, *_machines(own)),
    )


def _groups(columns: Sequence[Column]) -> tuple[tuple[str, int], ...]:
    """Headings above the columns with their spans; none when all data sets are of one group."""
    spans = tuple((group, len(list(members))) for group, members in groupby(columns, key=lambda column: column.group))
    return spans if len({group for group, _ in spans if group}) > 1 else ()


def _line(section: Section, label: str, cells: Sequence[Cell], own: pd.DataFrame, anchors: dict[tuple[str, str], str]) -> Line:
    method = base_method(str(own["method"].iloc[0]))
    fidelity = ", ".join(sorted(own["fidelity"].dropna().unique()))
    suites = sorted(own["suite"].dropna().unique())
    numbers = tuple(
        _number(cell, column, anchors.get((label, column.name), "") if column.kind == "score" else "")
        for cell, column in zip(cells, section.columns, strict=True)
    )
    scored = [c.name for cell, c in zip(cells, section.columns, strict=True) if c.kind == "score" and cell.mean is not None]
    return Line(
        label,
        method_file(method),
        fidelity,
        method,
        json.dumps(suites),
        json.dumps(scored),
        " ".join([label, fidelity, section.title, *suites]).lower(),
        numbers,
    )


def _number(cell: Cell, column: Column, href: str) -> Number:
    """A cell's text is split, so that the page can set mean, spread and number of seeds apart."""
    text, _, spread = cell.text.partition(" (")[0].partition(" ± ")
    known = cell.n is not None and column.kind == "score"
    return Number(text, spread, f"{cell.n}" if known else "", "" if cell.mean is None else f"{cell.mean:.9g}", cell.rank, href)


def _tallies(
    section: Section, label: str, cells: Sequence[Cell], own: pd.DataFrame, anchor: str, places: dict[Any, Place]
) -> list[Tally]:
    columns = ["dataset", "seed", "run_id", "status", "acc1", "repeat"]
    by_dataset: dict[str, list[SeedRun]] = {}
    for index, dataset, seed, _, status, acc1, repeat in own[columns].sort_values(columns[:3]).itertuples(name=None):
        run = SeedRun(quantity("seed", seed), _outcome(status, acc1, bool(repeat)), str(status), f"../{places[index].href}")
        by_dataset.setdefault(str(dataset), []).append(run)
    tallies = []
    for place, (column, cell) in enumerate(zip(section.columns, cells, strict=True), 1):
        if column.kind != "score" or column.name not in by_dataset:
            continue
        number = _number(cell, column, "")
        tallies.append(Tally(f"{anchor}-{place}", label, column.name, number, tuple(by_dataset[column.name])))
    return tallies


def _outcome(status: Any, acc1: Any, repeat: bool) -> str:
    if status != "ok":
        return str(status)
    text = "no accuracy" if is_missing(acc1) else f"{acc1:.1f}"
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
