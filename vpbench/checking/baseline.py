"""Reading and writing baselines: one parquet file with the rows of several seeds, in the columns of the store."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from vpbench.core.errors import StoreError, UsageError
from vpbench.core.files import write_atomically
from vpbench.store.schema import COLUMNS, SCHEMA, SCHEMA_VERSION
from vpbench.store.store import Store

# One measured cell; its rows differ in their seeds only.
CELL = ["suite", "dataset", "backbone", "method"]

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
        table = pq.ParquetFile(path).read()
    except (pa.ArrowException, OSError) as error:
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
    frame = frame[frame["stage"] != "search"]
    if frame.empty:
        state = "has no rows" if folder.is_dir() else "does not exist"
        raise UsageError(f"the results folder {folder} {state}; fill it with vpbench run, or leave --results out.")
    return frame[list(COLUMNS)]


def write_baseline(frame: pd.DataFrame, path: Path) -> None:
    """Write a baseline at once: the old file stays until the new one is whole.

    Raises:
        StoreError: for a row that is no result to compare with (failed, diverged), or a file that cannot be written.
    """
    for row in frame[~frame["status"].isin(("ok", "unsupported"))].itertuples():
        reason = (str(row.error).strip().splitlines() or [""])[-1]
        raise StoreError(
            f"{path} is not written: {row.method} on {row.dataset}, seed {row.seed}, is {row.status} ({reason}); "
            "a baseline holds good runs only."
        )
    ordered = frame.sort_values([*CELL, "seed"], kind="stable")[list(COLUMNS)]
    table = pa.Table.from_pandas(ordered, schema=SCHEMA, preserve_index=False).replace_schema_metadata(SCHEMA.metadata)
    try:
        write_atomically(path, lambda partial: pq.write_table(table, partial))
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
