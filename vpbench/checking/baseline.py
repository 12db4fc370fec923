"""Baselines: one parquet file with the rows of several seeds, in the columns of the store; and rows by cell.

A cell is one method on one data set; its rows differ in their seeds.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from vpbench.core.errors import StoreError, UsageError
from vpbench.core.files import write_atomically
from vpbench.models.registry import current_options
from vpbench.spec.recipe import Recipe
from vpbench.store.checked_parquet import checked, open_parquet, write_table
from vpbench.store.schema import COLUMNS, SCHEMA, SCHEMA_VERSION
from vpbench.store.store import Store

CELL = ["suite", "dataset", "backbone", "method"]
Cell = tuple[str, ...]  # the values of CELL
Row = dict[str, Any]

# Without these there is nothing to compare with.
NEEDED = (*CELL, "group_id", "seed", "status", "spec", "total", "acc1", "first_losses", "platform", "device", "torch")


def read_baseline(path: Path) -> pd.DataFrame:
    """The rows of a baseline; columns that an older one lacks are empty.

    Raises:
        UsageError: when there is no such file, it is no baseline, it is newer than this vpbench, or it has no rows.
    """
    remedy = f"write one with: vpbench check --baseline {path} --update"
    if not path.is_file():
        raise UsageError(f"the baseline {path} does not exist; {remedy}.")
    try:
        content = path.read_bytes()
        checked(content)
        table = open_parquet(content).read()
    except (pa.ArrowException, ValueError, OSError) as error:
        raise UsageError(f"the baseline {path} cannot be read ({str(error).splitlines()[0]}); {remedy}.") from error
    version = (table.schema.metadata or {}).get(b"vpbench_schema", b"none").decode(errors="replace")
    if not version.isdecimal() or int(version) > SCHEMA_VERSION:
        raise UsageError(
            f"the baseline {path} has schema version {version}, this vpbench reads those up to {SCHEMA_VERSION}; {remedy}."
        )
    if missing := [name for name in NEEDED if name not in table.column_names]:
        raise UsageError(f"the baseline {path} has no column {missing[0]}; {remedy}.")
    if not len(table):
        raise UsageError(f"the baseline {path} has no rows; {remedy}.")
    frame: pd.DataFrame = table.to_pandas(types_mapper={pa.int64(): pd.Int64Dtype()}.get)
    return frame.reindex(columns=list(COLUMNS))


def read_results(folder: Path) -> pd.DataFrame:
    """The rows of a results folder.

    Raises:
        UsageError: when there are none.
    """
    frame = Store(folder).load()
    frame = frame[~frame["stage"].isin(("search", "shift"))]
    if frame.empty:
        state = "has no rows" if folder.is_dir() else "does not exist"
        raise UsageError(f"the results folder {folder} {state}; fill it with vpbench run, or leave --results out.")
    return frame[list(COLUMNS)]


def write_baseline(frame: pd.DataFrame, path: Path) -> None:
    """Write a baseline atomically: the old file stays until the new one is complete.

    Raises:
        StoreError: for a row that is no result to compare with (failed, diverged), or a file that cannot be written.
    """
    for row in frame[~frame["status"].isin(("ok", "unsupported"))].itertuples():
        reason = (str(row.error).strip().splitlines() or [""])[-1]
        raise StoreError(
            f"{path} is not written: {row.method} on {row.dataset}, seed {row.seed}, is {row.status} ({reason}); "
            "a baseline holds finished runs only."
        )
    ordered = frame.sort_values([*CELL, "seed"], kind="stable")[list(COLUMNS)]
    table = pa.Table.from_pandas(ordered, schema=SCHEMA, preserve_index=False).replace_schema_metadata(SCHEMA.metadata)
    try:
        write_atomically(path, lambda partial: write_table(table, partial))
    except OSError as error:
        raise StoreError(f"the baseline {path} cannot be written: {error.strerror or error}.") from error


def merged(old: pd.DataFrame | None, new: pd.DataFrame) -> pd.DataFrame:
    """The new rows, and the old ones of all cells that have no new row."""
    if old is None or old.empty:
        return new
    renewed = set(cells_of(new))
    kept = old[[cell not in renewed for cell in old[CELL].itertuples(index=False, name=None)]]
    return new if kept.empty else pd.concat([kept, new], ignore_index=True)


def cells_of(frame: pd.DataFrame) -> list[tuple[str, ...]]:
    """The different cells (suite, data set, backbone, method) of some rows, in their order."""
    return list(dict.fromkeys(frame[CELL].itertuples(index=False, name=None)))


def by_cell(frame: pd.DataFrame) -> dict[Cell, pd.DataFrame]:
    """The rows of every cell."""
    return {tuple(map(str, cell)): rows for cell, rows in frame.groupby(CELL, sort=False)}


def with_specification_of(rows: pd.DataFrame, old: pd.DataFrame | None) -> pd.DataFrame:
    """A cell's rows that have the specification of its baseline ``old``; without any, those of the newest specification."""
    if old is not None and (same := rows["group_id"].isin(set(old["group_id"]))).any():
        return rows[same]
    newest = rows.sort_values("started_at", kind="stable").iloc[-1]["group_id"]
    return rows[rows["group_id"] == newest]


def finished(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows with status ``ok``."""
    return rows[rows["status"] == "ok"]


def records(rows: pd.DataFrame) -> list[Row]:
    """One dictionary per row."""
    return [dict(zip(map(str, rows.columns), values)) for values in rows.itertuples(index=False, name=None)]


def row_of_seed(seed: int, rows: pd.DataFrame) -> Row | None:
    """The row of a seed."""
    found = records(rows[rows["seed"] == seed])
    return found[0] if found else None


def specification(row: Any) -> dict[str, Any]:
    """The specification of a row's run. All of checking reads a method's options here, at ``["method"]["config"]``."""
    spec = dict(json.loads(row["spec"]))
    method = spec["method"]
    method["config"] = current_options(method["name"], method["config"])
    method.pop("hashed_names", None)
    spec["recipe"] = Recipe.model_validate(spec["recipe"]).identity()  # without later fields that are at their defaults
    return spec
