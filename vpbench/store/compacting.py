"""Merging the small files of a results folder, while others read it and write to it.

The rows are written to one new file, which gets its name when it is whole and on disk; only then what it was made from is
removed. A process that dies in between leaves some rows in two places, where reading takes one of them.
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
from vpbench.store.schema import SCHEMA_VERSION
from vpbench.store.store import Store


@dataclass(frozen=True)
class Compaction:
    """What :func:`compact` did.

    Attributes:
        path: the new file; None when there was nothing to merge.
        rows: in it.
        merged: how many files it replaces.
        left: how many of them are still there, since their runs are being done again at this moment.
        broken: files that are no readable results, and why; left where they are.
    """

    path: Path | None = None
    rows: int = 0
    merged: int = 0
    left: int = 0
    broken: list[tuple[Path, str]] = field(default_factory=list)


def compact(store: Store) -> Compaction:
    """Put all rows of a results folder into one file. What lies beside the rows stays where it is.

    Raises:
        StoreError: when another process does the same, a later vpbench wrote rows here, or the folder cannot be written.
    """
    with only_one(store):
        for rest in store.folder.glob(f".{COMPACTED}*.partial.parquet"):  # of a process that was killed
            rest.unlink(missing_ok=True)
        rows = read_rows(store.folder, use_copy=False)  # a damaged copy must not get into what replaces the files
        rows.refuse_newer(store.folder)
        merged = _to_merge(rows)
        if not merged:
            return Compaction(broken=rows.broken)
        table = rows.table.filter(pc.is_in(rows.origins, pa.array(merged)))
        path = store.write_compacted(table)
        _sync(store.folder)
        left = [name for name in merged if not _remove(store, name, rows.files[name])]
        (store.folder / "_cache" / "rows.arrow").unlink(missing_ok=True)
        return Compaction(path, len(table), len(merged), len(left), rows.broken)


@contextmanager
def only_one(store: Store) -> Iterator[None]:
    """Keep other processes from writing files of many rows while the block runs.

    Raises:
        StoreError: when another one does.
    """
    with store.claims.claim(COMPACTING) as ours:
        if not ours:
            raise StoreError(
                f"{store.folder}: another command is compacting it or importing into it; give this one again when that has ended."
            )
        yield


def _to_merge(rows: Rows) -> list[str]:
    """Runs' own files and compacted ones; none when they are one file of this version already.

    A file of another name was put there by somebody who knows it by that name.
    """
    broken, runs = {path.name for path, _ in rows.broken}, set(rows.table["run_id"].to_pylist())
    files = [name for name in rows.files if name not in broken and (name.startswith(COMPACTED) or name[:-8] in runs)]
    done = len(files) == 1 and files[0].startswith(COMPACTED) and set(rows.versions) == {str(SCHEMA_VERSION)}
    return [] if done else files


def _remove(store: Store, name: str, stamp: str) -> bool:
    """Whether a merged file is gone; one whose run is under way, or that has been written again since, stays."""
    path = store.folder / name
    if name.startswith(COMPACTED):  # nobody else writes those
        path.unlink(missing_ok=True)
        return True
    with store.claims.claim(path.stem) as ours:
        if ours and stamp_of(path) == stamp:
            path.unlink(missing_ok=True)
            return True
    return False


def _sync(folder: Path) -> None:
    """Have the new file's name on disk before the old ones are removed, in case the power fails."""
    with suppress(OSError):  # not every file system can
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
