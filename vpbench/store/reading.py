"""Reads all rows of a results folder, of any size, while other processes write to it and compact it.

A compacted file has many rows. A row file is read by its embedded JSON (``vpbench.store.row_file``) in a tenth of a millisecond;
one of another version or program takes a millisecond or two. A folder with many of them therefore has a cache of their rows:
``FOLDER/_cache/rows.arrow`` (``vpbench.store.row_copies``) has each row with the stamp of its file; files that are new or have
changed are read again. It may be deleted at any time.

Whatever is wrong with a file, it is left out with a reason: one that is not as vpbench wrote it, foreign ones that do not
fit, and rows that cannot be results (``vpbench.store.plausible``).
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from vpbench.core.errors import StoreError
from vpbench.core.escaping import one_line
from vpbench.core.version import __version__
from vpbench.store.checked_parquet import open_parquet
from vpbench.store.plausible import JUDGED, implausible
from vpbench.store.row_copies import ORIGIN, read_copy, write_copy
from vpbench.store.row_file import as_table, decode_row
from vpbench.store.schema import SCHEMA, SCHEMA_VERSION, is_newer, migrated, version_of

COMPACTED = "compacted-"  # prefix of the names of compacted files
WORTH_A_COPY = 200  # row files; fewer are read in a fraction of a second
AT_ONCE = 1000  # rows that are taken from JSON to a table together, as a table is much smaller
WORTH_A_NEW_COPY = 100  # of them not in the copy

_FILE, _STAMP, _VERSION = ORIGIN

Broken = list[tuple[Path, str]]
_Origin = tuple[str, str, str]  # a file's name, stamp and version


@dataclass(frozen=True)
class Rows:
    """The rows of a results folder.

    Attributes:
        table: one row per run, sorted by ``run_id``; columns of the schema, then unknown ones.
        broken: files that are left out or have rows that are, and the reason.
        versions: number of rows by version of the schema.
        files: stamp of every file read, by name.
        origins: file name of each row.
    """

    table: pa.Table
    broken: Broken
    versions: Counter[str]
    files: dict[str, str]
    origins: pa.ChunkedArray

    @property
    def left_out(self) -> list[str]:
        """One line for every file that is broken."""
        return [
            f"{one_line(str(path))} is not a readable result and is left out: {one_line(reason)}" for path, reason in self.broken
        ]

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


def read_file(path: Path, columns: Sequence[str] | None = None) -> Rows:
    """All rows of one file in any folder.

    Raises:
        FileNotFoundError: when it does not exist.
    """
    try:
        return _read_files(path.parent, {path.name: stamp_of(path)}, columns, use_copy=False)
    except _GoneError as error:
        raise FileNotFoundError(path) from error


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
    read = None if wanted is None else list(dict.fromkeys([*wanted, *JUDGED]))
    broken: Broken = []
    large = {name: stamp for name, stamp in files.items() if name.startswith(COMPACTED)}
    small = {name: stamp for name, stamp in files.items() if name not in large}
    if use_copy and len(small) >= WORTH_A_COPY:
        tables = _through_copy(folder, small, read, broken)
    else:
        tables = _tables(folder, small, read, broken)
    tables += _tables(folder, large, read, broken)
    if not tables:
        return Rows(
            _selected(migrated(SCHEMA.empty_table()), wanted), broken, Counter(), files, pa.chunked_array([], pa.string())
        )
    table = _selected(_newest(_plausible(folder, _joined(folder, tables, broken), broken)), wanted)
    versions = {count["values"]: count["counts"] for count in pc.value_counts(table[_VERSION]).to_pylist()}
    return Rows(table.drop_columns(ORIGIN), broken, Counter(versions), files, table[_FILE])


def _selected(table: pa.Table, wanted: list[str] | None) -> pa.Table:
    """The wanted columns that exist, and the origin of the rows."""
    return table if wanted is None else table.select([name for name in table.column_names if name in {*wanted, *ORIGIN}])


def _tables(folder: Path, files: dict[str, str], wanted: list[str] | None, broken: Broken) -> list[pa.Table]:
    """The rows of all readable files, with name, stamp and version of the file; one table per file schema.

    Of small files that are no JSON rows all columns are there: a foreign file must fit as a whole, whatever is asked for.
    """
    quick: list[tuple[_Origin, dict[str, Any]]] = []
    kinds: dict[tuple[bool, pa.Schema], list[tuple[_Origin, pa.Table]]] = {}
    tables: list[pa.Table] = []

    def make_table(rows: list[dict[str, Any]]) -> pa.Table:
        return as_table(rows, wanted)

    for name, stamp in files.items():
        try:
            name.encode()  # the table has the names of the files
            content = (folder / name).read_bytes()
            if (row := decode_row(content)) is not None:
                quick.append(((name, stamp, str(SCHEMA_VERSION)), row))
                if len(quick) == AT_ONCE:
                    tables += _together(folder, quick, make_table, broken)
                    quick = []
                continue
            large = name.startswith(COMPACTED)
            rows, version = columns_in(content, wanted if large else None)
        except Exception as error:  # of pyarrow, whatever is wrong with a file of another program
            _note_broken(folder / name, error, broken)
            continue
        kinds.setdefault((large, rows.schema), []).append(((name, stamp, version), rows))
    tables += _together(folder, quick, make_table, broken)
    for (large, _), members in kinds.items():
        tables += _together(folder, members, partial(_migrated, wanted=wanted if large else None), broken)
    return tables


def columns_in(content: bytes, wanted: Sequence[str] | None = None) -> tuple[pa.Table, str]:
    """The rows in a parquet file, as they are, and the version of their schema.

    Raises:
        ArrowInvalid: for columns that no table of ours can have; and what pyarrow raises for a file that is none.
    """
    file = open_parquet(content)
    names = file.schema_arrow.names
    if wrong := [name for name, times in Counter(names).items() if times > 1 or name in ORIGIN]:
        raise pa.ArrowInvalid(f"its column {wrong[0]} is there twice, or has a name that is reserved")
    version = version_of(file.metadata.metadata)
    columns = None if wanted is None else [name for name in names if name in wanted]
    return file.read(columns=columns).replace_schema_metadata(None), version


def _migrated(tables: Sequence[pa.Table], wanted: Sequence[str] | None) -> pa.Table:
    table = migrated(pa.concat_tables(tables), wanted)
    table.validate(full=True)  # texts are UTF-8
    return table


def _together(
    folder: Path, members: Sequence[tuple[_Origin, Any]], make: Callable[[list[Any]], pa.Table], broken: Broken
) -> list[pa.Table]:
    """One table of all files, made by ``make`` of what is in them; one for each where one of them does not fit."""
    if not members:
        return []
    origins, contents = zip(*members, strict=True)
    try:
        table = make(list(contents))
    except Exception as error:  # of pyarrow, whatever does not fit
        if len(members) == 1:
            _note_broken(folder / origins[0][0], error, broken)
            return []
        return [table for member in members for table in _together(folder, [member], make, broken)]
    return [_with_origins(table, origins, [len(own) if isinstance(own, pa.Table) else 1 for own in contents])]


def _with_origins(table: pa.Table, origins: Sequence[_Origin], counts: list[int]) -> pa.Table:
    """Appends the columns of origin to the rows of several files.

    Args:
        counts: number of rows per file, in the order of the table.
    """
    places = pa.array(np.repeat(np.arange(len(origins)), counts))
    for column, values in zip(ORIGIN, zip(*origins, strict=True), strict=True):
        table = table.append_column(column, pa.array(values, pa.string()).take(places))
    return table


def _note_broken(path: Path, error: Exception, broken: Broken) -> None:
    """Records an unreadable file.

    Raises:
        _GoneError: if it does not exist any more.
    """
    if not os.path.lexists(path):
        raise _GoneError from error
    broken.append((path, (str(error).strip().splitlines() or [type(error).__name__])[0]))


def _joined(folder: Path, tables: list[pa.Table], broken: Broken) -> pa.Table:
    """One table in one chunk; with a chunk per file all operations are far slower.

    Files with an unknown column of another type than in the files before them are left out; our own come first.
    """
    try:
        table = pa.concat_tables(tables, promote_options="permissive")
    except pa.ArrowException:
        table, *others = sorted(tables, key=lambda own: (not pc.all(_is_ours(own)).as_py(), own.num_columns))
        for other in others:
            try:
                table = pa.concat_tables([table, other], promote_options="permissive")
            except pa.ArrowException as error:
                for name in other[_FILE].unique().to_pylist():
                    _note_broken(folder / name, error, broken)
    return table.combine_chunks()


def _plausible(folder: Path, table: pa.Table, broken: Broken) -> pa.Table:
    """The rows that can be results; each file that has others is noted once."""
    faults = implausible(table)
    if not faults:
        return table
    by_file: dict[str, list[str]] = {}
    for place, reason in faults.items():
        by_file.setdefault(table[_FILE][place].as_py(), []).append(reason)
    rows = Counter(table[_FILE].to_pylist())
    for name, reasons in sorted(by_file.items()):
        others = f" ({len(reasons)} of its {rows[name]} rows; the others are read)" if len(reasons) < rows[name] else ""
        broken.append((folder / name, f"{reasons[0]}{others}"))
    good = np.ones(len(table), bool)
    good[list(faults)] = False
    return table.filter(pa.array(good))


def _is_ours(table: pa.Table) -> pa.ChunkedArray:
    """Which rows are in files that vpbench has named: row files and compacted files."""
    row_file = pc.equal(table[_FILE], pc.binary_join_element_wise(table["run_id"], ".parquet", ""))
    return pc.or_(pc.fill_null(row_file, False), pc.starts_with(table[_FILE], COMPACTED))


def _newest(table: pa.Table) -> pa.Table:
    """One row per run, sorted by ``run_id``.

    If several files have a run, its row file is the newest, because it was written again after compaction; then compacted files
    by number, then files with other names, which users put there.
    """
    if not len(table):
        return table
    compacted = pc.starts_with(table[_FILE], COMPACTED)
    rank = pc.if_else(pc.and_(_is_ours(table), pc.invert(compacted)), 2, pc.cast(compacted, pa.int64()))
    keys = pa.table({"run_id": table["run_id"], "rank": rank, "file": table[_FILE]})
    order = pc.sort_indices(keys, sort_keys=[(name, "ascending") for name in keys.column_names])
    ids = table["run_id"].take(order).to_numpy()
    newest = order.to_numpy()[np.append(ids[:-1] != ids[1:], [True] * (len(ids) > 0))]
    return table if np.array_equal(newest, np.arange(len(table))) else table.take(newest)


def _through_copy(folder: Path, files: dict[str, str], wanted: list[str] | None, broken: Broken) -> list[pa.Table]:
    """Tables of all files, most of them from the copy, which is rewritten if many files are not in it."""
    path = folder / "_cache" / "rows.arrow"
    copies = read_copy(path, files, wanted)
    names = {name for copy in copies for name in copy[_FILE].to_pylist()}
    new = {name: stamp for name, stamp in files.items() if name not in names}
    if copies and len(new) < WORTH_A_NEW_COPY:
        return copies + _tables(folder, new, wanted, broken)
    tables = read_copy(path, files, None) + _tables(folder, new, None, broken)
    if not tables:
        return []
    table = _joined(folder, tables, broken)
    write_copy(path, table)
    return [_selected(table, wanted)]
