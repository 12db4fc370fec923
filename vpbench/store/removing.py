"""Removal of runs from a results folder: their rows, wherever these lie, and what lies beside them.

A row goes before its artefacts, and from compacted files before its row file goes. So whenever the process dies, each run has its
row as it was, or none; the same call finishes the rest.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from vpbench.core.checksums import DamagedError
from vpbench.core.errors import StoreError, UsageError
from vpbench.core.file_names import inside, is_file_name
from vpbench.store.checked_parquet import checked
from vpbench.store.compacting import only_one, sync
from vpbench.store.find_run import find_run_id
from vpbench.store.reading import COMPACTED, Rows, columns_in, compacted_files
from vpbench.store.schema import migrated
from vpbench.store.store import Store, as_dicts

AT_ONCE = 200  # runs; the lock of each is an open file
FACTS = ("run_id", "status", "method", "dataset", "seed")


@dataclass(frozen=True)
class StoredRun:
    """What a results folder has of a run.

    Attributes:
        facts: the columns :data:`FACTS` of its row; only its id where it has no readable row.
        has_row: whether there is a row, readable or not.
        beside: its folder of artefacts, its checkpoint and its log, those that exist.
    """

    run_id: str
    facts: dict[str, Any]
    has_row: bool
    beside: tuple[Path, ...]

    @property
    def bytes_beside(self) -> int:
        files = [file for path in self.beside for file in (path.rglob("*") if path.is_dir() else [path])]
        return sum(file.stat().st_size for file in files if file.is_file())


def find_runs(store: Store, beginnings: Iterable[str]) -> list[StoredRun]:
    """The runs whose ids begin so, each once. A run that has no row but artefacts, a checkpoint or a log counts.

    Raises:
        UsageError: for an empty text, which every id begins with.
        StoreError: when none or several begin so, when its row is in a file that vpbench has not named, or a later vpbench wrote
            rows here.
    """
    if "" in (beginnings := list(beginnings)):
        raise UsageError("the id of a run to remove is empty: give its first digits.")
    rows = store.read(list(FACTS))
    rows.refuse_newer(store.folder)
    facts = {row["run_id"]: row for row in as_dicts(rows.table, FACTS)}
    known = sorted({*facts, *_without_row(store, rows)})
    chosen = list(dict.fromkeys(name if name in known else find_run_id(store, name, known) for name in beginnings))
    _refuse_foreign(store, rows, chosen)
    return [
        StoredRun(
            run_id,
            facts.get(run_id, {"run_id": run_id}),
            has_row=run_id in facts or store.row_path(run_id).exists(),
            beside=_beside(store, run_id),
        )
        for run_id in chosen
    ]


def _without_row(store: Store, rows: Rows) -> set[str]:
    """Names of files and folders for runs, some of which may have no readable row."""
    beside = (store.artefacts_folder.glob("*"), store.checkpoints_folder.glob("*.pt"), store.logs_folder.glob("*.log"))
    broken = [path for path, _ in rows.broken if not path.name.startswith(COMPACTED)]
    return {path.stem for paths in (*beside, broken) for path in paths if not path.name.startswith(".")}


def _refuse_foreign(store: Store, rows: Rows, run_ids: Sequence[str]) -> None:
    """Rows in files of other programs cannot be taken out of them."""
    origins = dict(zip(rows.table["run_id"].to_pylist(), rows.origins.to_pylist(), strict=True))
    places = {run_id: origins[run_id] for run_id in run_ids if run_id in origins}
    for name in rows.files.keys() - {f"{run_id}.parquet" for run_id in origins}:
        if not name.startswith(COMPACTED):  # it may have what a file of ours has, too
            places |= {run_id: name for run_id in _ids_in(store.folder / name) if run_id in run_ids}
    for run_id, name in places.items():
        if not name.startswith(COMPACTED) and name != f"{run_id}.parquet" and is_file_name(name):
            raise StoreError(
                f"run {run_id} is in {store.folder / name}, a file that vpbench has not written: "
                "take its row out of that file, or move the file to another folder. Nothing was removed."
            )


def _ids_in(path: Path) -> set[str]:
    """Runs of a parquet file; none of one that cannot be read."""
    try:
        return set(_rows_in(path, ["run_id"])["run_id"].to_pylist())
    except (pa.ArrowException, DamagedError, OSError, KeyError):
        return set()


def _rows_in(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    content = path.read_bytes()
    checked(content)
    return columns_in(content, columns)[0]


def _beside(store: Store, run_id: str) -> tuple[Path, ...]:
    paths = (inside(store.artefacts_folder, run_id), store.checkpoint_path(run_id), store.log_path(run_id))
    return tuple(path for path in paths if path.exists())


def remove_runs(store: Store, run_ids: Sequence[str]) -> None:
    """Remove runs of :func:`find_runs`. No other row and no other file is touched, and readers see each run as it was or not.

    Raises:
        StoreError: when one of them is being executed or another process is compacting (nothing has been removed then), or when a
            file cannot be removed.
    """
    if busy := sorted(store.claims.held().keys() & set(run_ids)):
        raise StoreError(_is_busy(busy[0]))
    with only_one(store):
        for begin in range(0, len(run_ids), AT_ONCE):
            _remove(store, run_ids[begin : begin + AT_ONCE])


def _is_busy(run_id: str) -> str:
    return f"run {run_id} is under way: stop its command first, or wait for its end. Nothing was removed."


def _remove(store: Store, run_ids: Sequence[str]) -> None:
    with ExitStack() as claims:
        for run_id in run_ids:
            if not claims.enter_context(store.claims.claim(run_id)):
                raise StoreError(_is_busy(run_id))
        try:
            for path in compacted_files(store.folder):
                _take_out(store, path, run_ids)
            for run_id in run_ids:
                store.row_path(run_id).unlink(missing_ok=True)
            sync(store.folder)
            for path in (path for run_id in run_ids for path in _beside(store, run_id)):
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                else:
                    path.unlink(missing_ok=True)
        except OSError as error:
            place, reason = error.filename or store.folder, error.strerror or error
            raise StoreError(f"{place} cannot be removed: {reason}. The same command removes the rest.") from error


def _take_out(store: Store, path: Path, run_ids: Sequence[str]) -> None:
    """Replaces a compacted file by one without these runs. Rows of it that are left out in reading are kept as they are."""
    if not _ids_in(path) & set(run_ids):
        return
    rows = migrated(_rows_in(path))
    kept = rows.filter(pc.invert(pc.is_in(rows["run_id"], pa.array(run_ids, pa.string()))))
    if len(kept):
        store.write_compacted(kept, in_place_of=path)
        sync(store.folder)
    path.unlink(missing_ok=True)
