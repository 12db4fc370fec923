"""Import of rows from results folders and from files of ``vpbench export``."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from vpbench.core.errors import StoreError
from vpbench.store.compacting import only_one
from vpbench.store.reading import COMPACTED, read_file
from vpbench.store.schema import QUALITY, SCHEMA, SETTLED
from vpbench.store.store import Store

_RESULT = ("status", *QUALITY)  # columns that must agree between two rows of the same run
_ABOUT = ("run_id", "method", "dataset", "seed")


@dataclass(frozen=True)
class Source:
    """A results folder or file to import from.

    Attributes:
        path: of the folder or file.
        rows: migrated to this version of the schema.
        broken: unreadable files of the folder and the reason.
    """

    path: Path
    rows: pa.Table
    broken: list[tuple[Path, str]]

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
    found = Store(path).read() if path.is_dir() else read_file(path)
    if path.is_file() and found.broken:
        raise StoreError(f"{path} is not a readable result: {found.broken[0][1]}.")
    found.refuse_newer(path)
    if not len(found.table):
        raise StoreError(f"{path} has no rows.")
    rows = found.table.select(SCHEMA.names)
    for run_id, status in zip(rows["run_id"].to_pylist(), rows["status"].to_pylist(), strict=True):
        if not status or not _is_plain(run_id):
            raise StoreError(f"{path} has a row that is not a result of vpbench: run_id {run_id!r}, status {status!r}.")
    return Source(path, rows, found.broken)


def _is_plain(run_id: str | None) -> bool:
    """Whether an id from another store is a valid file name that collides with no other kind of file."""
    if not run_id:
        return False
    return Path(run_id).name == run_id and not run_id.startswith((".", COMPACTED))


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
                merge.conflicts.append({**{name: row[name] for name in _ABOUT}, "source": str(source.path), "differ": differ})
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
        StoreError: when the folder cannot be written, or another process compacts it.
    """
    changed = {**merge.better, **merge.replaced}
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


def _rows_of(wanted: dict[str, Source]) -> Sequence[pa.Table]:
    """The rows of these runs, one table per source."""
    sources = {id(source): source for source in wanted.values()}
    runs = {key: [run_id for run_id, source in wanted.items() if id(source) == key] for key in sources}
    return [source.rows.filter(pc.is_in(source.rows["run_id"], pa.array(runs[key]))) for key, source in sources.items()]


def _copy_files(store: Store, run_id: str, source: Source) -> None:
    """Copies artefacts and log of a run; before its row, because a stored row means that the run is complete."""
    if source.store is None:
        return
    for old in store.artefact_path(run_id, "").glob("*"):
        old.unlink()
    for path in sorted(source.store.artefact_path(run_id, "").glob("*")):
        if path.is_file() and not path.name.startswith("."):
            store.write_artefact(run_id, path.name, partial(_copy, path))
    with suppress(OSError):  # a log that cannot be copied is not an error
        store.log_path(run_id).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source.store.log_path(run_id), store.log_path(run_id))


def _copy(path: Path, target: Path) -> None:
    shutil.copyfile(path, target)
