"""Import of rows from results folders and from files of ``vpbench export``."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from vpbench.core.checksums import DamagedError
from vpbench.core.errors import StoreError
from vpbench.core.escaping import one_line
from vpbench.core.file_names import is_file_name
from vpbench.core.files import write_atomically
from vpbench.store.artefacts import ARTEFACTS, CHECKSUMS
from vpbench.store.compacting import only_one
from vpbench.store.reading import COMPACTED, Rows, read_file, read_rows
from vpbench.store.schema import QUALITY, SCHEMA, SETTLED
from vpbench.store.store import Store

_RESULT = ("status", *QUALITY)  # columns that must agree between two rows of the same run
_ABOUT = ("run_id", "method", "dataset", "seed")
_NAMES = ("method", "backbone", "suite", "dataset", "dataset_group")
_NO_LINK = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
_SEPARATORS = frozenset("/\\")
LONGEST_NAME = 250


@dataclass(frozen=True)
class Source:
    """A results folder or file to import from.

    Attributes:
        path: of the folder or file.
        rows: migrated to this version of the schema.
        found: the same as they were read, and which files of the folder are left out.
        called: what messages call it; None: its path.
    """

    path: Path
    rows: pa.Table
    found: Rows
    called: str | None = None

    @property
    def store(self) -> Store | None:
        """The results folder, with artefacts and logs; None for a file."""
        return Store(self.path) if self.path.is_dir() else None


@dataclass
class Merge:
    """Plan of an import.

    Attributes:
        new: source of each run that is not in the store, by run id.
        better: source of each run that failed in the store (failed, oom, timeout) and not in the source.
        replaced: source of each conflict that is replaced.
        same: number of rows that are in the store already.
        conflicts: runs with different numbers in store and source: ``run_id``, ``method``, ``dataset``, ``seed``, ``source`` and
            ``differ``, the two values of each differing column.
    """

    new: dict[str, Source] = field(default_factory=dict)
    better: dict[str, Source] = field(default_factory=dict)
    replaced: dict[str, Source] = field(default_factory=dict)
    same: int = 0
    conflicts: list[dict[str, Any]] = field(default_factory=list)


def open_source(path: Path) -> Source:
    """Rows of a results folder or of a parquet file.

    Raises:
        StoreError: when it does not exist, a later vpbench wrote it, or its rows are not results.
    """
    if not path.exists():
        raise StoreError(f"{path} does not exist: give a results folder, or a parquet file of 'vpbench export'.")
    if path.is_file() and path.suffix != ".parquet":
        raise StoreError(f"{path} is not a parquet file; write one with: vpbench export --to rows.parquet")
    found = read_rows(path, use_copy=False) if path.is_dir() else read_file(path)  # a copy may say what no row says
    if path.is_file() and found.broken:
        raise StoreError(f"{path} is not a readable result: {one_line(found.broken[0][1])}.")
    found.refuse_newer(path)
    if not len(found.table):
        raise StoreError(f"{path} has no rows{f'; {found.left_out[0]}' if found.broken else ''}.")
    rows = found.table.select(SCHEMA.names)
    for name in _NAMES:
        for value in pc.unique(rows[name]).to_pylist():
            if value is not None and not _is_name(value):
                raise StoreError(f"{path} has a row whose {name} is no name: {_shortened(value)}.")
    for run_id in rows["run_id"].to_pylist():
        if run_id.startswith(COMPACTED):
            raise StoreError(f"{path} has a row whose run_id is no run's: {run_id!r}.")
    return Source(path, rows, found)


def _is_name(text: str) -> bool:
    """Whether a text can stand for a method, a data set and the like, in messages, tables and file names."""
    return 0 < len(text) <= LONGEST_NAME and text.isprintable() and not _SEPARATORS & set(text) and text.strip(". ") != ""


def _shortened(text: str) -> str:
    return repr(text) if len(text) <= 60 else f"{text[:57]!r}..."


def plan_merge(store: Store, sources: Iterable[Source], *, replace: bool = False) -> Merge:
    """Compares the sources with the store, and each with those before it. Writes nothing.

    Args:
        replace: whether the row of the source replaces that of the store in conflicts.
    """
    merge = Merge()
    known = {row["run_id"]: row for row in store.read_columns([*_ABOUT, *_RESULT])}
    for source in sources:
        for row in source.rows.select([*_ABOUT, *_RESULT]).to_pylist():
            run_id, mine = row["run_id"], known.get(row["run_id"])
            if mine is None or (run_id in merge.new and _is_better(row, mine)):
                merge.new[run_id] = source
            elif _is_better(row, mine):
                merge.better[run_id] = source
            elif row["status"] not in SETTLED or not (differ := _differing(mine, row)):
                merge.same += 1
                continue
            else:
                merge.conflicts.append(
                    {**{name: row[name] for name in _ABOUT}, "source": source.called or str(source.path), "differ": differ}
                )
                if not replace:
                    continue
                (merge.new if run_id in merge.new else merge.replaced)[run_id] = source
            known[run_id] = row
    return merge


def _is_better(row: dict[str, Any], mine: dict[str, Any]) -> bool:
    return row["status"] in SETTLED and mine["status"] not in SETTLED


def _differing(mine: dict[str, Any], row: dict[str, Any]) -> dict[str, list[Any]]:
    pairs = {name: [_number(mine[name]), _number(row[name])] for name in _RESULT}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def _number(value: Any) -> Any:
    return None if value != value else value  # NaN compares like null


def write_merge(store: Store, merge: Merge) -> list[str]:
    """Executes the plan: new rows are written as one file, the others one by one.

    Returns:
        the runs of ``better`` and ``replaced`` that were skipped, because another command works on them.

    Raises:
        StoreError: when the folder cannot be written, another process compacts it, or there is a link or a folder among the
            files of a run; nothing is written then.
    """
    changed = {**merge.better, **merge.replaced}
    for run_id, source in {**merge.new, **changed}.items():
        _check_files(store, run_id, source)
    store.check_writable()
    with only_one(store):
        for run_id, source in merge.new.items():
            _copy_files(store, run_id, source)
        if merge.new:
            store.write_compacted(pa.concat_tables(_rows_of(merge.new)))
        busy = []
        for row in (row for table in _rows_of(changed) for row in table.to_pylist()):
            with store.claims.claim(row["run_id"]) as ours:
                if ours:
                    _copy_files(store, row["run_id"], changed[row["run_id"]])
                    store.write_row(row)
                else:
                    busy.append(row["run_id"])
    return busy


def add_missing_files(store: Store, sources: Iterable[Source]) -> list[str]:
    """Copies artefacts that runs of ours lack, from sources that have the very same rows.

    Returns:
        ``RUN/NAME`` of each.

    Raises:
        StoreError: for a file that is not what its checksum says, a link, or a folder that cannot be written.
    """
    added = []
    for source in sources:
        if source.store is not None:
            ours, theirs = _attempts(store), _attempts(source.store)
            for run_id in sorted(ours.items() & theirs.items()):
                added += _add_files(store, run_id[0], source, source.store)
    return added


def _attempts(store: Store) -> dict[str, Any]:
    """When each run began: another attempt has other files."""
    return {row["run_id"]: row["started_at"] for row in store.read_columns(["run_id", "started_at"])}


def _add_files(store: Store, run_id: str, source: Source, theirs: Store) -> list[str]:
    names = [path.name for path in _files_in(theirs.artefacts_folder / run_id) if path.name in ARTEFACTS.values()]
    lacking = [name for name in names if not store.artefact_path(run_id, name).exists()]
    if lacking:
        _check_files(store, run_id, source)
    for name in lacking:
        try:
            content = theirs.read_artefact(run_id, name)
        except (DamagedError, OSError) as error:
            raise StoreError(f"{theirs.artefact_path(run_id, name)} is damaged, and was not taken.") from error
        store.write_artefact(run_id, name, partial(_write, content))
    return [f"{run_id[:8]}/{name}" for name in lacking]


def _write(content: bytes, path: Path) -> None:
    path.write_bytes(content)


def _rows_of(wanted: dict[str, Source]) -> Sequence[pa.Table]:
    """The rows of these runs, one table per source."""
    sources = {id(source): source for source in wanted.values()}
    runs = {key: [run_id for run_id, source in wanted.items() if id(source) == key] for key in sources}
    return [source.rows.filter(pc.is_in(source.rows["run_id"], pa.array(runs[key]))) for key, source in sources.items()]


def _check_files(store: Store, run_id: str, source: Source) -> None:
    """That nothing is copied from, or removed from, any place but the two results folders.

    Our ``_artefacts`` itself may be a link, to a larger disk; that of a source may not.

    Raises:
        StoreError: for a symbolic link, or for a folder where a file should be.
    """
    if source.store is None:
        return
    theirs, ours = source.store.artefacts_folder / run_id, store.artefacts_folder / run_id
    log = source.store.log_path(run_id)
    for path in (source.store.artefacts_folder, theirs, *_files_in(theirs), log.parent, log, ours, *_files_in(ours)):
        if path.is_symlink():
            raise StoreError(
                f"{one_line(str(path))} is a symbolic link, and import takes files alone: replace it by what it names."
            )
    for path in _files_in(ours):
        if not path.is_file():
            raise StoreError(f"{one_line(str(path))} is no file, and would be lost: move it away, and import again.")


def _files_in(folder: Path) -> list[Path]:
    """What is in a folder, without hidden files; nothing where there is none."""
    return [] if folder.is_symlink() or not folder.is_dir() else sorted(path for path in folder.glob("*") if path.name[0] != ".")


def _copy_files(store: Store, run_id: str, source: Source) -> None:
    """Copies artefacts and log of a run; before its row, because a stored row means that the run is complete.

    Checksums are copied as they are, so that a damaged artefact does not become a good one.
    """
    if source.store is None:
        return
    ours, theirs = store.artefacts_folder / run_id, source.store.artefacts_folder / run_id
    for old in _files_in(ours):
        old.unlink()
    for path in sorted(_files_in(theirs), key=lambda path: path.name == CHECKSUMS):
        if path.is_file() and is_file_name(path.name):
            store.write_file(store.artefact_path(run_id, path.name), partial(_copy, path))
    with suppress(OSError):  # a log that cannot be copied is not an error
        store.logs_folder.mkdir(parents=True, exist_ok=True)
        write_atomically(store.log_path(run_id), partial(_copy, source.store.log_path(run_id)))


def _copy(path: Path, target: Path) -> None:
    """Copies a file, unless it has become a link or a pipe since it was checked."""
    with os.fdopen(os.open(path, os.O_RDONLY | _NO_LINK), "rb") as source, target.open("wb") as copy:
        if stat.S_ISREG(os.fstat(source.fileno()).st_mode):
            shutil.copyfileobj(source, copy)
