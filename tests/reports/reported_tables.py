"""The papers' tables with rows of ours."""

from __future__ import annotations

from typing import Any

import pandas as pd
from report_rows import frame_of, labels_of, make_row

from vpbench.data.catalog import dataset_card
from vpbench.reporting.build_table import build_table
from vpbench.reporting.definition import load_definition
from vpbench.reporting.published import with_reported
from vpbench.reporting.table import Cell, Section, Table

TABLES = [("insvp", str(n)) for n in range(1, 6)] + [("ivpt", str(n)) for n in range(1, 15)] + [("viapt", "1")]
B16 = {"backbone": "vit-b16-in21k", "weights": "file", "suite": "hta"}


def hta_row(method: str, dataset: str, acc1: float | None = 80.0, seed: int = 0, **columns: Any) -> dict[str, Any]:
    return make_row(method, dataset, seed, acc1, **{**B16, "dataset_group": dataset_card(dataset).group, **columns})


def reported(rows: list[dict[str, Any]], paper: str = "insvp", number: str = "1") -> Table:
    definition = load_definition(paper, number)
    runs = frame_of(*rows) if rows else pd.DataFrame()
    return with_reported(build_table(runs, definition), definition, paper)


def cell(section: Section, label: str, kind: str, name: str) -> Cell:
    row = section.rows[labels_of(section).index(label)]
    place = next(i for i, column in enumerate(section.columns) if (column.kind, column.name) == (kind, name))
    return row.cells[place]
