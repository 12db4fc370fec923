"""Compaction: merges the small files of a results folder, while other processes read it and write to it.

All rows are written atomically to one new file; only then the merged files are removed. If the process dies in between, some
rows are stored twice, and reading takes one of them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from vpbench.core.errors import StoreError
from vpbench.store.claims import COMPACTING
from vpbench.store.reading import COMPACTED, Rows, read_rows, stamp_of
from vpbench.store.schema import COLUMNS, SCHEMA_VERSION
from vpbench.store.store import Store


@dataclass(frozen=True)
class Compaction:
    """Result of :func:`compact`, or of :func:`to_compact` what it would be.

    Attributes:
        path: the new file; None if there was nothing to merge, or nothing was written.
        rows: number of rows in it.
        merged: number of files that it replaces.
        left: number of them that were not removed, because their runs are being executed again.
        broken: unreadable files and the reason; left in place.
    """

    path: Path | None = None
    rows: int = 0
    merged: int = 0
    left: int = 0
    broken: list[tuple[Path, str]] = field(default_factory=list)


def compact(store: Store) -> Compaction:
    """Merges all rows of a results folder into one file. Artefacts stay in place.

    Raises:
        StoreError: when another process is compacting, a later vpbench wrote rows here, or the folder cannot be written.
    """
    store.sweep()
    with only_one(store):
        for partial in store.folder.glob(f".{COMPACTED}*.partial.parquet"):  # of a killed process
            partial.unlink(missing_ok=True)
        rows, merged = _mergeable(store)
        if not merged:
            return Compaction(broken=rows.broken)
        table = _table_of(rows, merged)
        path = store.write_compacted(table)
        sync(store.folder)
        left = [name for name in merged if not _remove(store, name, rows.files[name])]
        (store.folder / "_cache" / "rows.arrow").unlink(missing_ok=True)
        return Compaction(path, len(table), len(merged), len(left), rows.broken)


def to_compact(store: Store) -> Compaction:
    """What :func:`compact` would merge as the folder is now; nothing is written.

    Raises:
        StoreError: when a later vpbench wrote rows here.
    """
    rows, merged = _mergeable(store)
    return Compaction(None, len(_table_of(rows, merged)) if merged else 0, len(merged), 0, rows.broken)


def _mergeable(store: Store) -> tuple[Rows, list[str]]:
    """All rows, and the files to merge."""
    rows = read_rows(store.folder, use_copy=False)  # a damaged copy must not get into the new file
    rows.refuse_newer(store.folder)
    return rows, _to_merge(rows)


def _table_of(rows: Rows, merged: list[str]) -> pa.Table:
    return _of_these(rows.table.filter(pc.is_in(rows.origins, pa.array(merged))))


@contextmanager
def only_one(store: Store) -> Iterator[None]:
    """Context manager: excludes other processes from writing compacted files.

    Raises:
        StoreError: when another process is writing one.
    """
    with store.claims.claim(COMPACTING) as ours:
        if not ours:
            raise StoreError(
                f"{store.folder}: another command is compacting it or importing into it; try again when it has finished."
            )
        yield


def _to_merge(rows: Rows) -> list[str]:
    """Names of row files and compacted files; empty if that is one file of this version already.

    Files with other names were put there by users and are left alone.
    """
    broken, runs = {path.name for path, _ in rows.broken}, set(rows.table["run_id"].to_pylist())
    files = [name for name in rows.files if name not in broken and (name.startswith(COMPACTED) or name[:-8] in runs)]
    done = len(files) == 1 and files[0].startswith(COMPACTED) and set(rows.versions) == {str(SCHEMA_VERSION)}
    return [] if done else files


def _of_these(table: pa.Table) -> pa.Table:
    """Without the unknown columns of other files, which are empty here."""
    return table.select([name for name in table.column_names if name in COLUMNS or table[name].null_count < len(table)])


def _remove(store: Store, name: str, stamp: str) -> bool:
    """Removes a merged file and returns whether it did: not if its run is active or the file has changed since."""
    path = store.folder / name
    if name.startswith(COMPACTED):  # no other process writes those
        path.unlink(missing_ok=True)
        return True
    with store.claims.claim(path.stem) as ours:
        if ours and stamp_of(path) == stamp:
            path.unlink(missing_ok=True)
            return True
    return False


def sync(folder: Path) -> None:
    """Fsyncs the folder, so that the new file's name is on disk before the old files are removed."""
    with suppress(OSError):  # not supported by every file system
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
