"""Rows by cell: one method on one data set, whose rows differ in their seeds."""

from __future__ import annotations

from typing import Any

import pandas as pd

from vpbench.checking.baseline import CELL

Cell = tuple[str, ...]  # the values of CELL


def by_cell(frame: pd.DataFrame) -> dict[Cell, pd.DataFrame]:
    return {tuple(map(str, cell)): rows for cell, rows in frame.groupby(CELL, sort=False)}


def of_the_same_specification(rows: pd.DataFrame, old: pd.DataFrame | None) -> pd.DataFrame:
    """A cell's rows of the baseline's specification; where it has none, those of the newest specification."""
    if old is not None and (same := rows["group_id"].isin(set(old["group_id"]))).any():
        return rows[same]
    newest = rows.sort_values("started_at", kind="stable").iloc[-1]["group_id"]
    return rows[rows["group_id"] == newest]


def good(rows: pd.DataFrame) -> pd.DataFrame:
    return rows[rows["status"] == "ok"]


def records(rows: pd.DataFrame) -> list[dict[str, Any]]:
    return [dict(zip(map(str, rows.columns), values)) for values in rows.itertuples(index=False, name=None)]


def twin_of(row: dict[str, Any], rows: pd.DataFrame) -> dict[str, Any] | None:
    """The row of the same seed."""
    found = records(rows[rows["seed"] == row["seed"]])
    return found[0] if found else None
