"""Reading and writing the results folder.

``FOLDER/<run_id>.parquet`` holds one row each. What a run leaves beside its row lies in ``FOLDER/_artefacts/<run_id>/``
and is never a parquet file, so that ``pandas.read_parquet(FOLDER)`` and its relatives see rows only.
"""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Callable, Iterable
from contextlib import suppress
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from vpbench.core.errors import StoreError
from vpbench.store.claims import Claims
from vpbench.store.schema import COLUMNS, SCHEMA, SCHEMA_VERSION

DEFAULT_FOLDER = Path("results/runs")


class Store:
    """A results folder.

    Args:
        folder: need not exist before the first row is written.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        self.claims = Claims(self.folder / "_claims")

    def row_path(self, run_id: str) -> Path:
        return self.folder / f"{run_id}.parquet"

    def artefact_path(self, run_id: str, name: str) -> Path:
        """Where a run's ``features.npz``, ``predictions.npz``, ``curve.csv`` or ``weights.safetensors`` lies."""
        return self.folder / "_artefacts" / run_id / name

    def log_path(self, run_id: str) -> Path:
        """Where what a run's process printed lies, when it was not this process."""
        return self.folder / "_logs" / f"{run_id}.log"

    def checkpoint_path(self, run_id: str) -> Path:
        """Where the state of an unfinished run lies (``vpbench.training.checkpoint``); gone when its row is written."""
        return self.folder / "_checkpoints" / f"{run_id}.pt"

    def check_writable(self) -> None:
        """Fail before any work is done.

        Raises:
            StoreError: when no file can be written to the folder.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=self.folder, prefix=".probe-"):
                pass
        except OSError as error:
            raise StoreError(
                f"results folder {self.folder} cannot be written: {error.strerror or error}. Choose --results FOLDER."
            ) from error

    def write_row(self, row: dict[str, Any]) -> Path:
        """Write one run's row at once: it is there whole, or not at all.

        Raises:
            StoreError: for an unknown column, a value of the wrong type, or a folder that cannot be written.
        """
        if surplus := sorted(set(row) - COLUMNS.keys()):
            raise StoreError(f"unknown columns {', '.join(surplus)}: the schema (version {SCHEMA_VERSION}) does not have them.")
        integers = {name: value for name, value in row.items() if pa.types.is_integer(COLUMNS[name][0])}
        # pyarrow would cut a fraction off.
        if real := [name for name, value in integers.items() if isinstance(value, Real) and not isinstance(value, Integral)]:
            raise StoreError(f"run {row.get('run_id')}: a value does not fit its column: {', '.join(real)} must be integers.")
        try:
            table = pa.Table.from_pylist([{name: row.get(name) for name in COLUMNS}], schema=SCHEMA)
        except (pa.ArrowException, OverflowError) as error:
            raise StoreError(f"run {row.get('run_id')}: a value does not fit its column: {error}") from error
        path = self.row_path(row["run_id"])
        self._write_whole(path, lambda partial: pq.write_table(table, partial))
        with suppress(OSError):
            self.checkpoint_path(row["run_id"]).unlink()
        return path

    def write_checkpoint(self, run_id: str, content: bytes) -> None:
        """Keep the state of a run that is under way, in place of an earlier one.

        Raises:
            StoreError: when it cannot be written; the earlier one is still there then.
        """
        self._write_whole(self.checkpoint_path(run_id), lambda partial: partial.write_bytes(content))

    def read_checkpoint(self, run_id: str) -> bytes | None:
        """What :meth:`write_checkpoint` has kept; None when there is nothing."""
        try:
            return self.checkpoint_path(run_id).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StoreError(
                f"{self.checkpoint_path(run_id)} cannot be read: {error.strerror or error}. Remove it to start its run again."
            ) from error

    def write_artefact(self, run_id: str, name: str, write: Callable[[Path], None]) -> Path:
        """Let ``write`` fill a temporary file, then give it its name."""
        path = self.artefact_path(run_id, name)
        self._write_whole(path, write)
        return path

    def _write_whole(self, path: Path, write: Callable[[Path], None]) -> None:
        partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write(partial)
            with partial.open("rb") as stream:
                os.fsync(stream.fileno())
            partial.replace(path)
        except OSError as error:
            raise StoreError(
                f"{path} cannot be written: {error.strerror or error}. Free space or choose --results FOLDER."
            ) from error
        finally:
            with suppress(OSError):  # a folder that cannot be written cannot be tidied either
                partial.unlink()

    def statuses(self) -> dict[str, str]:
        """Status of every stored run, by run id; broken files are left out, so that their runs are repeated."""
        rows, _ = self._read(["run_id", "status"])
        return {row["run_id"]: row["status"] for table in rows for row in table.to_pylist() if "status" in row}

    def read_row(self, run_id: str) -> dict[str, Any] | None:
        """One run's row; None when there is none or its file is broken."""
        try:
            rows = pq.ParquetFile(self.row_path(run_id)).read().to_pylist()
        except (pa.ArrowException, OSError):
            return None
        return next((row for row in rows if row.get("run_id") == run_id), None)

    def read_columns(self, columns: list[str]) -> list[dict[str, Any]]:
        """Some columns of every readable row, the first of them ``run_id``; None where a file lacks a column."""
        tables, _ = self._read(columns)
        return [{name: row.get(name) for name in columns} for table in tables for row in table.to_pylist()]

    def load(self) -> pd.DataFrame:
        """All rows, one per run, in the order of ``run_id``; columns that an older file lacks are empty.

        A file that cannot be read is left out with a warning that names it.
        """
        tables, broken = self._read(None)
        for path, reason in broken:
            warnings.warn(f"{path} is not a readable result and is left out: {reason}", stacklevel=2)
        if not tables:
            return SCHEMA.empty_table().to_pandas()
        # pandas' nullable integers: a run without a count must not turn the others' into floats.
        frame: pd.DataFrame = pa.concat_tables(tables, promote_options="permissive").to_pandas(
            types_mapper={pa.int64(): pd.Int64Dtype()}.get
        )
        known = [name for name in COLUMNS if name in frame.columns]
        return frame[known + [name for name in frame.columns if name not in COLUMNS]]

    def _read(self, columns: list[str] | None) -> tuple[list[pa.Table], list[tuple[Path, str]]]:
        tables: list[pa.Table] = []
        broken: list[tuple[Path, str]] = []
        for path in self._row_files():
            try:
                table = pq.ParquetFile(path).read(columns=columns)
                if "run_id" not in table.column_names:
                    raise pa.ArrowInvalid("it has no run_id column")
                for field in SCHEMA if columns is None else ():
                    if field.name not in table.column_names:
                        table = table.append_column(field, pa.nulls(len(table), field.type))
                    elif (values := table[field.name]).type != field.type:  # of a version that stored it otherwise
                        table = table.set_column(table.column_names.index(field.name), field, values.cast(field.type))
                tables.append(table.replace_schema_metadata(None))
            except (pa.ArrowException, OSError) as error:
                broken.append((path, str(error).splitlines()[0]))
        return tables, broken

    def _row_files(self) -> Iterable[Path]:
        return sorted(path for path in self.folder.glob("*.parquet") if not path.name.startswith("."))
