"""Export of rows to one parquet or CSV file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
from pandas.api.types import is_object_dtype, is_string_dtype

from vpbench.core.errors import StoreError, UsageError
from vpbench.core.escaping import for_spreadsheet
from vpbench.core.files import write_atomically
from vpbench.core.hub import PREFIX
from vpbench.store.checked_parquet import write_table
from vpbench.store.schema import SCHEMA, SETTLED
from vpbench.store.store import as_frame


def _parquet(rows: pa.Table, path: Path) -> None:
    write_table(rows.replace_schema_metadata(SCHEMA.metadata), path)


def _csv(rows: pa.Table, path: Path) -> None:
    frame = as_frame(rows)
    for name in (field.name for field in SCHEMA if pa.types.is_list(field.type)):
        frame[name] = [None if values is None else json.dumps(list(values)) for values in frame[name]]
    for name in frame.columns:
        if is_object_dtype(frame[name]) or is_string_dtype(frame[name]):
            frame[name] = [for_spreadsheet(value) if isinstance(value, str) else value for value in frame[name]]
    frame.to_csv(path, index=False)


WRITERS: dict[str, Callable[[pa.Table, Path], None]] = {".parquet": _parquet, ".csv": _csv}


def writer_for(path: Path) -> Callable[[pa.Table, Path], None]:
    """The writer for the suffix of ``path``.

    Raises:
        UsageError: for a name that ends neither with .parquet nor with .csv.
    """
    if path.suffix not in WRITERS:
        raise UsageError(f"--to {path}: give a name that ends with {' or '.join(WRITERS)}.")
    return WRITERS[path.suffix]


def write_export(rows: pa.Table, path: Path) -> None:
    """Write rows to one file, atomically.

    Raises:
        StoreError: when it cannot be written.
        UsageError: for a name that ends neither with .parquet nor with .csv.
    """
    write = writer_for(path)
    try:
        write_atomically(path, lambda partial: write(rows, partial))
    except OSError as error:
        raise StoreError(f"{path} cannot be written: {error.strerror or error}. Choose another --to.") from error


def to_publish(rows: pa.Table) -> pa.Table:
    """The rows without the places of data and weights on this machine, and without runs that went wrong, whose errors hold more
    of them."""
    rows = rows.filter(pc.is_in(rows["status"], pa.array(SETTLED)))
    for name in ("data_path", "weights_path"):
        column = rows[name]
        of_hub = pc.fill_null(pc.starts_with(column, PREFIX), False)
        rows = rows.set_column(rows.column_names.index(name), name, pc.if_else(of_hub, column, pa.scalar(None, pa.string())))
    return rows
