"""Reads all rows of a results folder, of any size, while other processes write to it and compact it.

A compacted file has many rows. A row file is read by its embedded JSON (``vpbench.store.row_file``) in a tenth of a millisecond;
one of another version or program takes a millisecond or two. A folder with many of them therefore has a cache of their rows:
``FOLDER/_cache/rows.arrow`` has each row with the stamp of its file; files that are new or have changed are read again. It may
be deleted at any time.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.feather as feather
import pyarrow.parquet as pq

from vpbench.core.errors import StoreError
from vpbench.core.files import write_atomically
from vpbench.core.version import __version__
from vpbench.store.row_file import as_table, decode_row
from vpbench.store.schema import SCHEMA, SCHEMA_VERSION, is_newer, migrated, version_of

COMPACTED = "compacted-"  # prefix of the names of compacted files
WORTH_A_COPY = 200  # row files; fewer are read in a fraction of a second
WORTH_A_NEW_COPY = 100  # of them not in the copy

_LAYOUT = f"2 {SCHEMA_VERSION} {pa.__version__} {SCHEMA.names}".encode()
_FILE, _STAMP, _VERSION = _ORIGIN = ("_file", "_stamp", "_schema")  # columns besides the store's

Broken = list[tuple[Path, str]]
_Origin = tuple[str, str, str]  # a file's name, stamp and version


@dataclass(frozen=True)
class Rows:
    """The rows of a results folder.

    Attributes:
        table: one row per run, sorted by ``run_id``; columns of the schema, then unknown ones.
        broken: unreadable files and the reason.
        versions: number of rows by version of the schema.
        files: stamp of every file read, by name.
        origins: file name of each row.
    """

    table: pa.Table
    broken: Broken
    versions: Counter[str]
    files: dict[str, str]
    origins: pa.ChunkedArray

    def refuse_newer(self, place: Path) -> None:
        """Rejects rows of a later version of the schema.

        Args:
            place: folder or file, for the message.

        Raises:
            StoreError: if there are any.
        """
        if newer := max((int(version) for version in self.versions if is_newer(version)), default=0):
            raise StoreError(
                f"{place} has rows of schema version {newer}, and vpbench {__version__} knows versions up to "
                f"{SCHEMA_VERSION}: install a later vpbench, or choose other results."
            )


class _GoneError(Exception):
    """A file has been compacted since the folder was listed."""


def read_rows(folder: Path, columns: Sequence[str] | None = None, *, use_copy: bool = True) -> Rows:
    """All rows of a folder, which need not exist.

    Args:
        columns: to read; None for all.
        use_copy: whether to read and write the cached copy of row files.
    """
    while True:
        files = list_files(folder)
        with suppress(_GoneError):  # its rows are in another file by now
            return _read_files(folder, files, columns, use_copy)


def read_file(path: Path) -> Rows:
    """All rows of one file in any folder."""
    return _read_files(path.parent, {path.name: stamp_of(path)}, None, use_copy=False)


def list_files(folder: Path) -> dict[str, str]:
    """Names of all result files, with stamps that change with the file."""
    return {name: stamp_of(folder / name) for name in _all_names(folder)}


def compacted_files(folder: Path) -> list[Path]:
    """Compacted files, newest first."""
    return [folder / name for name in reversed(_compacted(_all_names(folder)))]


def _all_names(folder: Path) -> list[str]:
    """Names of all result files. During compaction a single listing may miss a row in both places, so it is repeated."""
    names = _names(folder)
    while _compacted(again := _names(folder)) != _compacted(names):
        names = again
    return names


def stamp_of(path: Path) -> str:
    """Size, modification time and inode of a file; empty if it does not exist."""
    try:
        state = path.stat()
    except OSError:  # deleted since, or a dangling link
        return ""
    return f"{state.st_size} {state.st_mtime_ns} {state.st_ino}"


def _names(folder: Path) -> list[str]:
    try:
        return sorted(path.name for path in folder.iterdir() if path.suffix == ".parquet" and not path.name.startswith("."))
    except FileNotFoundError:
        return []
    except NotADirectoryError as error:
        raise StoreError(f"{folder} is a file, not a results folder: --results FOLDER.") from error
    except OSError as error:
        raise StoreError(f"{folder} cannot be read: {error.strerror or error}.") from error


def _compacted(names: list[str]) -> list[str]:
    return [name for name in names if name.startswith(COMPACTED)]


def _read_files(folder: Path, files: dict[str, str], columns: Sequence[str] | None, use_copy: bool) -> Rows:
    wanted = None if columns is None else list(dict.fromkeys(["run_id", *columns]))
    broken: Broken = []
    large = {name: stamp for name, stamp in files.items() if name.startswith(COMPACTED)}
    small = {name: stamp for name, stamp in files.items() if name not in large}
    if use_copy and len(small) >= WORTH_A_COPY:
        tables = _through_copy(folder, small, wanted, broken)
    else:
        tables = _tables(folder, small, wanted, broken)
    tables += _tables(folder, large, wanted, broken)
    if not tables:
        return Rows(
            _selected(migrated(SCHEMA.empty_table()), wanted), broken, Counter(), files, pa.chunked_array([], pa.string())
        )
    table = _newest(_joined(tables))
    versions = {count["values"]: count["counts"] for count in pc.value_counts(table[_VERSION]).to_pylist()}
    return Rows(table.drop_columns(_ORIGIN), broken, Counter(versions), files, table[_FILE])


def _selected(table: pa.Table, wanted: list[str] | None) -> pa.Table:
    """The wanted columns that exist, and the origin of the rows."""
    return table if wanted is None else table.select([name for name in table.column_names if name in {*wanted, *_ORIGIN}])


def _tables(folder: Path, files: dict[str, str], wanted: list[str] | None, broken: Broken) -> list[pa.Table]:
    """The rows of all readable files, with name, stamp and version of the file; one table per file schema."""
    quick: list[dict[str, Any]] = []
    quick_origins: list[_Origin] = []
    kinds: dict[pa.Schema, list[tuple[_Origin, pa.Table]]] = {}
    for name, stamp in files.items():
        try:
            content = None if name.startswith(COMPACTED) else (folder / name).read_bytes()
            if content is not None and (row := decode_row(content)) is not None:
                quick.append(row)
                quick_origins.append((name, stamp, str(SCHEMA_VERSION)))
                continue
            file = pq.ParquetFile(folder / name if content is None else pa.BufferReader(content))
            origin = (name, stamp, version_of(file.metadata.metadata))
            rows = file.read(columns=wanted, use_threads=content is None).replace_schema_metadata(None)
        except (pa.ArrowException, OSError) as error:
            _note_broken(folder / name, error, broken)
            continue
        kinds.setdefault(rows.schema, []).append((origin, rows))
    tables = [table for members in kinds.values() for table in _migrated_together(folder, members, wanted, broken)]
    if quick:
        tables.append(_with_origins(as_table(quick, wanted), quick_origins, [1] * len(quick)))
    return tables


def _migrated_together(
    folder: Path, members: list[tuple[_Origin, pa.Table]], wanted: list[str] | None, broken: Broken
) -> list[pa.Table]:
    """The rows of files with the same columns, migrated to this version, in one table unless a file cannot be migrated."""
    origins, tables = [origin for origin, _ in members], [rows for _, rows in members]
    try:
        table = migrated(pa.concat_tables(tables), wanted)
    except (pa.ArrowException, OSError) as error:
        if len(members) == 1:
            _note_broken(folder / origins[0][0], error, broken)
            return []
        return [table for member in members for table in _migrated_together(folder, [member], wanted, broken)]
    return [_with_origins(table, origins, [len(rows) for rows in tables])]


def _with_origins(table: pa.Table, origins: list[_Origin], counts: list[int]) -> pa.Table:
    """Appends the columns of origin to the rows of several files.

    Args:
        counts: number of rows per file, in the order of the table.
    """
    for column, values in zip(_ORIGIN, zip(*origins, strict=True), strict=True):
        table = table.append_column(column, pa.array(np.repeat(np.array(values, dtype=object), counts), pa.string()))
    return table


def _note_broken(path: Path, error: Exception, broken: Broken) -> None:
    """Records an unreadable file.

    Raises:
        _GoneError: if it does not exist any more.
    """
    if not os.path.lexists(path):
        raise _GoneError from error
    broken.append((path, str(error).splitlines()[0]))


def _joined(tables: list[pa.Table]) -> pa.Table:
    """One table in one chunk; with a chunk per file all operations are far slower."""
    return pa.concat_tables(tables, promote_options="permissive").combine_chunks()


def _newest(table: pa.Table) -> pa.Table:
    """One row per run, sorted by ``run_id``.

    If several files have a run, its row file is the newest, because it was written again after compaction; then compacted files
    by number, then files with other names, which users put there.
    """
    own = pc.equal(table[_FILE], pc.binary_join_element_wise(table["run_id"], ".parquet", ""))
    compacted = pc.starts_with(table[_FILE], COMPACTED)
    rank = pc.if_else(pc.fill_null(own, False), 2, pc.cast(compacted, pa.int64()))
    keys = pa.table({"run_id": table["run_id"], "rank": rank, "file": table[_FILE]})
    order = pc.sort_indices(keys, sort_keys=[(name, "ascending") for name in keys.column_names])
    ids = table["run_id"].take(order).to_numpy()
    newest = order.to_numpy()[np.append(ids[:-1] != ids[1:], [True] * (len(ids) > 0))]
    return table if np.array_equal(newest, np.arange(len(table))) else table.take(newest)


# The cached copy of row files


def _through_copy(folder: Path, files: dict[str, str], wanted: list[str] | None, broken: Broken) -> list[pa.Table]:
    """Tables of all files, most of them from the copy, which is rewritten if many files are not in it."""
    path = folder / "_cache" / "rows.arrow"
    copies = _read_copy(path, files, wanted)
    names = {name for copy in copies for name in copy[_FILE].to_pylist()}
    new = {name: stamp for name, stamp in files.items() if name not in names}
    if copies and len(new) < WORTH_A_NEW_COPY:
        return copies + _tables(folder, new, wanted, broken)
    tables = _read_copy(path, files, None) + _tables(folder, new, None, broken)
    if not tables:
        return []
    table = _joined(tables)
    _write_copy(path, table)
    return [_selected(table, wanted)]


def _read_copy(path: Path, files: dict[str, str], wanted: list[str] | None) -> list[pa.Table]:
    """The rows of the copy whose files have not changed; empty if there is no copy of this version."""
    try:
        with pa.memory_map(str(path)) as source:
            schema = pa.ipc.open_file(source).schema
        if (schema.metadata or {}).get(b"layout") != _LAYOUT:
            return []
        columns = [name for name in schema.names if wanted is None or name in {*wanted, *_ORIGIN}]
        table = feather.read_table(path, columns=columns, memory_map=False)
    except (pa.ArrowException, OSError):
        return []
    origins = zip(table[_FILE].to_pylist(), table[_STAMP].to_pylist(), strict=True)
    valid = pa.array([files.get(name) == stamp for name, stamp in origins], pa.bool_())
    return [(table if pc.all(valid).as_py() else table.filter(valid)).replace_schema_metadata(None)]


def _write_copy(path: Path, rows: pa.Table) -> None:
    copy = rows.replace_schema_metadata({"layout": _LAYOUT})
    with suppress(OSError):  # a read-only folder is read without a copy
        write_atomically(path, lambda partial: feather.write_feather(copy, str(partial), compression="zstd"))
