"""Reads and writes the results folder.

``FOLDER/<run_id>.parquet`` is a row file with one row, ``FOLDER/compacted-*.parquet`` a compacted file with many; if both have a
run, the row file wins. A row file is written or removed only by the process that holds the run's claim. Artefacts are in
``FOLDER/_artefacts/<run_id>/`` and are never parquet files, so that ``pandas.read_parquet(FOLDER)`` and similar readers see rows
only.
"""

from __future__ import annotations

import hashlib
import secrets
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from vpbench.core.checksums import DamagedError, sealed, unsealed
from vpbench.core.errors import StoreError
from vpbench.core.file_names import inside
from vpbench.core.files import remove_partials, write_atomically
from vpbench.core.hashing import file_sha256
from vpbench.core.names import unknown
from vpbench.core.user_warning import warn
from vpbench.store.artefacts import CHECKSUMS, read_checksums, write_checksums
from vpbench.store.checked_parquet import table_bytes
from vpbench.store.claims import Claims
from vpbench.store.reading import COMPACTED, Rows, compacted_files, read_file, read_rows
from vpbench.store.row_file import encode_row
from vpbench.store.schema import COLUMNS, SCHEMA, SCHEMA_VERSION, migrated

DEFAULT_FOLDER = Path("results/runs")
_ARCHIVE = b"PK"  # how checkpoints of earlier versions begin, which have no checksum
ROW_GROUP = 5000  # rows of a compacted file that are read to get one of them


class Store:
    """A results folder.

    Args:
        folder: need not exist before the first row is written.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        self.claims = Claims(self.folder / "_claims")
        self._compacted_ids: dict[str, set[str]] = {}  # by file name; compacted files never change

    def row_path(self, run_id: str) -> Path:
        return inside(self.folder, f"{run_id}.parquet")

    @property
    def artefacts_folder(self) -> Path:
        return self.folder / "_artefacts"

    def artefact_path(self, run_id: str, name: str) -> Path:
        """Path of an artefact: ``features.npz``, ``predictions.npz``, ``curve.csv`` or ``weights.safetensors``."""
        return inside(inside(self.artefacts_folder, run_id), name)

    @property
    def logs_folder(self) -> Path:
        return self.folder / "_logs"

    def log_path(self, run_id: str) -> Path:
        """Path of the log of a run that was executed in another process."""
        return inside(self.logs_folder, f"{run_id}.log")

    @property
    def checkpoints_folder(self) -> Path:
        return self.folder / "_checkpoints"

    def checkpoint_path(self, run_id: str) -> Path:
        """Path of an unfinished run's checkpoint (``vpbench.training.checkpoint``); removed when its row is written."""
        return inside(self.checkpoints_folder, f"{run_id}.pt")

    def check_there(self) -> None:
        """
        Raises:
            StoreError: when there is no such folder.
        """
        if not self.folder.is_dir():
            raise StoreError(f"there is no results folder {self.folder}; --results chooses another one.")

    def check_writable(self) -> None:
        """Tests whether the folder is writable, before any work is done, and removes what killed processes have left.

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
        self.sweep()

    def sweep(self) -> None:
        """Removes what killed processes have left; in the folder of a run's artefacts when it is done again."""
        self.claims.sweep()
        for folder in (self.folder, self.checkpoints_folder, self.logs_folder, self.folder / "_cache"):
            remove_partials(folder)

    def write_row(self, row: dict[str, Any]) -> Path:
        """Writes the row of a run atomically and removes its checkpoint.

        Raises:
            StoreError: for an unknown column, a value of the wrong type, or a folder that cannot be written.
        """
        if surplus := sorted(set(row) - COLUMNS.keys()):
            raise StoreError(f"unknown columns {', '.join(surplus)}: the schema (version {SCHEMA_VERSION}) does not have them.")
        integers = {name: value for name, value in row.items() if pa.types.is_integer(COLUMNS[name][0])}
        # pyarrow would truncate floats.
        if real := [name for name, value in integers.items() if isinstance(value, Real) and not isinstance(value, Integral)]:
            raise StoreError(f"run {row.get('run_id')}: a value does not fit its column: {', '.join(real)} must be integers.")
        try:
            content = encode_row(pa.Table.from_pylist([{name: row.get(name) for name in COLUMNS}], schema=SCHEMA))
        except (pa.ArrowException, OverflowError) as error:
            raise StoreError(f"run {row.get('run_id')}: a value does not fit its column: {error}") from error
        path = self.row_path(row["run_id"])
        self.write_file(path, lambda partial: partial.write_bytes(content))
        self.remove_checkpoint(row["run_id"])
        return path

    def write_checkpoint(self, run_id: str, content: bytes) -> None:
        """Writes the checkpoint of an unfinished run atomically.

        Raises:
            StoreError: when it cannot be written; an earlier checkpoint is kept.
        """

        self.write_file(self.checkpoint_path(run_id), lambda partial: partial.write_bytes(sealed(content)))

    def read_checkpoint(self, run_id: str) -> bytes | None:
        """The checkpoint of a run; None if there is none.

        Raises:
            DamagedError: when it is not as it was written.
            StoreError: when it cannot be read.
        """
        try:
            content = self.checkpoint_path(run_id).read_bytes()
            return content if content.startswith(_ARCHIVE) else bytes(unsealed(content))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StoreError(
                f"{self.checkpoint_path(run_id)} cannot be read: {error.strerror or error}. Remove it to restart the run."
            ) from error

    def remove_checkpoint(self, run_id: str) -> None:
        """Removes the checkpoint of a run, if there is one."""
        with suppress(OSError):
            self.checkpoint_path(run_id).unlink()

    def write_compacted(self, rows: pa.Table, in_place_of: Path | None = None) -> Path:
        """Writes a compacted file atomically, sorted by run id. The caller must hold the claim :data:`COMPACTING`.

        Args:
            rows: of this version of the schema, one per run.
            in_place_of: a compacted file that the caller removes afterwards, whose age the new one has; None: it is the newest.
        """
        numbers = [path.name.removeprefix(COMPACTED).partition("-")[0] for path in compacted_files(self.folder)]
        number = f"{max((int(text) for text in numbers if text.isdecimal()), default=0) + 1:06}"
        if in_place_of is not None:
            number = in_place_of.name.removeprefix(COMPACTED).partition("-")[0].removesuffix(".parquet")
        path = self.folder / f"{COMPACTED}{number}-{secrets.token_hex(4)}.parquet"
        table = rows.sort_by("run_id").replace_schema_metadata(SCHEMA.metadata)
        self.write_file(path, lambda partial: partial.write_bytes(table_bytes(table, ROW_GROUP)))
        return path

    def write_artefact(self, run_id: str, name: str, write: Callable[[Path], None]) -> Path:
        """Writes an artefact atomically, and its checksum beside it; ``write`` is called with a temporary path."""
        path, sums = self.artefact_path(run_id, name), self._checksums(run_id)
        remove_partials(path.parent)
        known = read_checksums(sums)
        if known.pop(name, None):  # so that a process that dies between the two leaves no checksum of another file
            self.write_file(sums, lambda partial: write_checksums(known, partial))
        digests: list[str] = []

        def write_and_hash(partial: Path) -> None:
            write(partial)
            digests.append(file_sha256(partial))

        self.write_file(path, write_and_hash)
        self.write_file(sums, lambda partial: write_checksums({**known, name: digests[0]}, partial))
        return path

    def read_artefact(self, run_id: str, name: str) -> bytes:
        """The content of an artefact.

        Raises:
            FileNotFoundError: when the run has none of this name.
            DamagedError: when it is not as it was written; artefacts of earlier versions have no checksum.
            OSError: when it cannot be read.
        """
        content = self.artefact_path(run_id, name).read_bytes()
        wanted = read_checksums(self._checksums(run_id)).get(name)
        if wanted is not None and hashlib.sha256(content).hexdigest() != wanted:
            raise DamagedError(f"its checksum in {CHECKSUMS} does not fit, so it is not as it was written")
        return content

    def has_artefact(self, run_id: str, name: str) -> bool:
        """Whether a run has left it, and it is as it was written. Reads all of it."""
        path, wanted = self.artefact_path(run_id, name), read_checksums(self._checksums(run_id)).get(name)
        return path.exists() and (wanted is None or file_sha256(path) == wanted)

    def _checksums(self, run_id: str) -> Path:
        return self.artefact_path(run_id, CHECKSUMS)

    def write_file(self, path: Path, write: Callable[[Path], object]) -> None:
        """Writes a file of the folder atomically.

        Raises:
            StoreError: when it cannot be written.
        """
        try:
            write_atomically(path, write)
        except OSError as error:
            raise StoreError(
                f"{path} cannot be written: {error.strerror or error}. Free space or choose --results FOLDER."
            ) from error

    def statuses(self) -> dict[str, str]:
        """Status of every stored run, by run id; unreadable files are left out, so that their runs are repeated.

        Raises:
            StoreError: when a later vpbench wrote rows here, whose run ids may have another meaning.
        """
        rows = self.read(["run_id", "status"])
        rows.refuse_newer(self.folder)
        pairs = zip(rows.table["run_id"].to_pylist(), rows.table["status"].to_pylist(), strict=True)
        return {run_id: status for run_id, status in pairs if status is not None}

    def read_row(self, run_id: str) -> dict[str, Any] | None:
        """The row of a run; None if there is none or its file is not a readable result."""
        while True:
            path = self.row_path(run_id)
            with suppress(FileNotFoundError):
                rows = read_file(path).table
                if row := next((row for row in rows.to_pylist() if row["run_id"] == run_id), None):
                    return row
            try:
                return self._compacted_row(run_id)
            except FileNotFoundError:  # compacted again meanwhile
                continue

    def _compacted_row(self, run_id: str) -> dict[str, Any] | None:
        for path in compacted_files(self.folder):
            if path.name not in self._compacted_ids:  # the whole file is checked once
                self._compacted_ids[path.name] = set(read_file(path, ["run_id"]).table["run_id"].to_pylist())
            if run_id in self._compacted_ids[path.name]:
                rows = pq.read_table(path, filters=[("run_id", "=", run_id)], partitioning=None)
                return dict(migrated(rows).to_pylist()[0])
        return None

    def read_columns(self, columns: list[str]) -> list[dict[str, Any]]:
        """Some columns of every readable row; None if a file lacks a column."""
        return as_dicts(self.read(columns).table, columns)

    def load(self, columns: Sequence[str] | None = None) -> pd.DataFrame:
        """One row per run, sorted by ``run_id``; columns that an older file lacks are null.

        Unreadable files are left out with a warning.

        Args:
            columns: to read, faster than all; None for all.

        Raises:
            UsageError: for a column that neither the schema nor a row has.
        """
        rows = self.read(columns)
        for line in rows.left_out:
            warn(line)
        for name in columns or ():
            if name not in rows.table.column_names:
                raise unknown("column", name, COLUMNS)
        return as_frame(rows.table)[list(columns or rows.table.column_names)]

    def read(self, columns: Sequence[str] | None = None) -> Rows:
        """All rows as a table, with information on their files."""
        return read_rows(self.folder, columns)


def as_dicts(table: pa.Table, columns: Sequence[str]) -> list[dict[str, Any]]:
    """Some columns of every row; None for a column that the table lacks."""
    lists = [table[name].to_pylist() if name in table.column_names else [None] * len(table) for name in columns]
    return [dict(zip(columns, values, strict=True)) for values in zip(*lists, strict=True)]


def as_frame(table: pa.Table) -> pd.DataFrame:
    """Rows as a DataFrame with nullable integers, so that a missing count does not make a column float."""
    frame: pd.DataFrame = table.to_pandas(types_mapper={pa.int64(): pd.Int64Dtype()}.get)
    return frame
