"""Reading and writing the results folder.

``FOLDER/<run_id>.parquet`` holds one row each, ``FOLDER/compacted-*.parquet`` those that ``vpbench compact`` put together; where
both have a run, its own file counts. A run's own file is written or removed only by who holds the run's claim. What a run leaves
beside its row lies in ``FOLDER/_artefacts/<run_id>/`` and is never a parquet file, so that ``pandas.read_parquet(FOLDER)`` and
its relatives see rows only.
"""

from __future__ import annotations

import secrets
import tempfile
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from vpbench.core.errors import StoreError
from vpbench.core.files import write_atomically
from vpbench.core.names import unknown
from vpbench.store.claims import Claims
from vpbench.store.reading import COMPACTED, Rows, compacted_files, read_rows
from vpbench.store.row_file import encode_row
from vpbench.store.schema import COLUMNS, SCHEMA, SCHEMA_VERSION, migrated

DEFAULT_FOLDER = Path("results/runs")
ROW_GROUP = 5000  # rows of a compacted file that are read together when one of them is asked for


class Store:
    """A results folder.

    Args:
        folder: need not exist before the first row is written.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        self.claims = Claims(self.folder / "_claims")
        self._compacted_ids: dict[str, set[str]] = {}  # by file name; such a file never changes

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
            content = encode_row(pa.Table.from_pylist([{name: row.get(name) for name in COLUMNS}], schema=SCHEMA))
        except (pa.ArrowException, OverflowError) as error:
            raise StoreError(f"run {row.get('run_id')}: a value does not fit its column: {error}") from error
        path = self.row_path(row["run_id"])
        self._write_atomically(path, lambda partial: partial.write_bytes(content))
        with suppress(OSError):
            self.checkpoint_path(row["run_id"]).unlink()
        return path

    def write_checkpoint(self, run_id: str, content: bytes) -> None:
        """Keep the state of a run that is under way, in place of an earlier one.

        Raises:
            StoreError: when it cannot be written; the earlier one is still there then.
        """

        def write(partial: Path) -> None:
            partial.write_bytes(content)

        self._write_atomically(self.checkpoint_path(run_id), write)

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

    def write_compacted(self, rows: pa.Table) -> Path:
        """Write many rows as one file, at once, ordered by run; to be done by who holds the claim :data:`COMPACTING` only.

        Args:
            rows: of this version of the schema, one per run.
        """
        numbers = [path.name.removeprefix(COMPACTED).partition("-")[0] for path in compacted_files(self.folder)]
        number = max((int(text) for text in numbers if text.isdecimal()), default=0) + 1
        path = self.folder / f"{COMPACTED}{number:06}-{secrets.token_hex(4)}.parquet"
        table = rows.sort_by("run_id").replace_schema_metadata(SCHEMA.metadata)
        self._write_atomically(path, lambda partial: pq.write_table(table, partial, compression="zstd", row_group_size=ROW_GROUP))
        return path

    def write_artefact(self, run_id: str, name: str, write: Callable[[Path], None]) -> Path:
        """Let ``write`` fill a temporary file, then give it its name."""
        path = self.artefact_path(run_id, name)
        self._write_atomically(path, write)
        return path

    def _write_atomically(self, path: Path, write: Callable[[Path], object]) -> None:
        try:
            write_atomically(path, write)
        except OSError as error:
            raise StoreError(
                f"{path} cannot be written: {error.strerror or error}. Free space or choose --results FOLDER."
            ) from error

    def statuses(self) -> dict[str, str]:
        """Status of every stored run, by run id; broken files are left out, so that their runs are repeated.

        Raises:
            StoreError: when a later version of vpbench wrote rows here, which may mean something else by a run's id.
        """
        rows = self.read(["run_id", "status"])
        rows.refuse_newer(self.folder)
        pairs = zip(rows.table["run_id"].to_pylist(), rows.table["status"].to_pylist(), strict=True)
        return {run_id: status for run_id, status in pairs if status is not None}

    def read_row(self, run_id: str) -> dict[str, Any] | None:
        """One run's row; None when there is none or its file is broken."""
        while True:
            with suppress(pa.ArrowException, OSError):
                rows = migrated(pq.ParquetFile(self.row_path(run_id)).read()).to_pylist()
                if row := next((row for row in rows if row["run_id"] == run_id), None):
                    return row
            try:
                return self._compacted_row(run_id)
            except FileNotFoundError:  # compacted again at this moment
                continue

    def _compacted_row(self, run_id: str) -> dict[str, Any] | None:
        for path in compacted_files(self.folder):
            with suppress(pa.ArrowException):
                if path.name not in self._compacted_ids:
                    self._compacted_ids[path.name] = set(pq.ParquetFile(path).read(["run_id"])["run_id"].to_pylist())
                if run_id in self._compacted_ids[path.name]:
                    rows = pq.read_table(path, filters=[("run_id", "=", run_id)], partitioning=None)
                    return dict(migrated(rows).to_pylist()[0])
        return None

    def read_columns(self, columns: list[str]) -> list[dict[str, Any]]:
        """Some columns of every readable row; None where a file lacks a column."""
        table = self.read(columns).table
        lists = [table[name].to_pylist() if name in table.column_names else [None] * len(table) for name in columns]
        return [dict(zip(columns, values, strict=True)) for values in zip(*lists, strict=True)]

    def load(self, columns: Sequence[str] | None = None) -> pd.DataFrame:
        """One row per run, in the order of ``run_id``; columns that an older file lacks are empty.

        A file that cannot be read is left out with a warning that names it.

        Args:
            columns: the only ones to read, which is quicker; None for all.

        Raises:
            UsageError: for a column that neither the schema nor a row has.
        """
        rows = self.read(columns)
        for path, reason in rows.broken:
            warnings.warn(f"{path} is not a readable result and is left out: {reason}", stacklevel=2)
        for name in columns or ():
            if name not in rows.table.column_names:
                raise unknown("column", name, COLUMNS)
        return as_frame(rows.table)[list(columns or rows.table.column_names)]

    def read(self, columns: Sequence[str] | None = None) -> Rows:
        """All rows as a table, with what is worth knowing of their files."""
        return read_rows(self.folder, columns)


def as_frame(table: pa.Table) -> pd.DataFrame:
    """Rows for pandas, with its nullable integers: a run without a count must not turn the others' into floats."""
    frame: pd.DataFrame = table.to_pandas(types_mapper={pa.int64(): pd.Int64Dtype()}.get)
    return frame
