"""The results folder: atomic writes, and rows of all versions."""

from __future__ import annotations

import errno
import multiprocessing
import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vpbench.core.errors import StoreError
from vpbench.store.schema import COLUMNS, SCHEMA, SCHEMA_VERSION
from vpbench.store.store import Store

START = datetime(2025, 1, 2, 3, 4, 5, 678_000, tzinfo=UTC)
EXAMPLES: dict[Any, Any] = {
    pa.string(): "text é", pa.int64(): 2**40, pa.float64(): 0.1, pa.bool_(): True,
    pa.timestamp("ms", tz="UTC"): START, pa.list_(pa.float64()): [0.5, 1e-300],
}  # fmt: skip


PERFECT = {"run_id": "a", "status": "ok", "acc1": 100.0, "acc5": 100.0, "val_acc1": 100.0}  # as all counts are equal


def make_row(run_id: str = "a", **columns: Any) -> dict[str, Any]:
    return {"run_id": run_id, "status": "ok", "method": "vpt", "dataset": "digits", "acc1": 50.0, "seed": 0, **columns}


def write_table(path: Path, table: pa.Table) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)


def leftovers(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


# --- writing


def test_round_trip(tmp_path: Path) -> None:
    store = Store(tmp_path / "not" / "yet" / "there")
    row = {name: EXAMPLES[kind] for name, (kind, _) in COLUMNS.items()} | PERFECT
    path = store.write_row(row)
    assert path == store.row_path("a")
    assert leftovers(store.folder) == ["a.parquet"]
    assert pq.read_table(path).to_pylist() == [row]
    frame = store.load()
    assert list(frame.columns) == list(COLUMNS)
    for name, value in row.items():
        found = frame[name].iloc[0]
        assert list(found) == value if isinstance(value, list) else found == value, name
    assert store.statuses() == {"a": row["status"]}


def test_metadata(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert pq.read_schema(store.write_row(make_row())).metadata[b"vpbench_schema"] == str(SCHEMA_VERSION).encode()
    schema = pq.read_schema(store.write_compacted(store.read().table))
    assert schema.metadata[b"vpbench_schema"] == str(SCHEMA_VERSION).encode()
    assert schema.field("acc1").metadata[b"description"] == COLUMNS["acc1"][1].encode()


def test_what_is_not_given_is_empty(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.write_row(make_row(acc1=None, val_acc1=float("nan")))
    frame = store.load()
    assert frame.loc[0, frame.columns.difference(["run_id", "status", "seed", "method", "dataset"])].isna().all()


def test_a_run_is_written_again(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for status in ("failed", "ok"):
        store.write_row(make_row(status=status))
    assert store.statuses() == {"a": "ok"}
    assert len(store.load()) == 1


def test_unknown_columns(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="unknown columns accuracy, zeal: the schema"):
        Store(tmp_path).write_row(make_row(zeal=1, accuracy=2))
    assert not leftovers(tmp_path)


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("seed", "0"), ("seed", 1.5), ("seed", np.float64(2)), ("seed", np.float32(2)), ("seed", 2**70), ("seed", [1]),
        ("acc1", "high"), ("acc1", [1.0]), ("status", 1), ("status", b"\xff"), ("git_dirty", "yes"),
        ("started_at", "today"), ("first_losses", 1.0), ("first_losses", ["a"]),
    ],
)  # fmt: skip
def test_wrong_types(column: str, value: Any, tmp_path: Path) -> None:
    with pytest.raises(StoreError) as caught:
        Store(tmp_path).write_row(make_row("run7", **{column: value}))
    assert "run7" in str(caught.value)
    assert not leftovers(tmp_path)


@pytest.mark.parametrize(
    ("column", "value"), [("seed", np.int64(3)), ("acc1", np.float32(3)), ("acc1", 3), ("git_dirty", np.bool_(True))]
)
def test_numpy_values_are_taken(column: str, value: Any, tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.write_row(make_row(**{column: value}))
    assert store.load()[column].iloc[0] == value


# --- atomic writes


def broken_writer(error: BaseException) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        path.write_bytes(b"half")
        raise error

    return write


@pytest.mark.parametrize("error", [RuntimeError("a bug"), KeyboardInterrupt()])
def test_writer_that_fails(error: BaseException, tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.write_artefact("a", "curve.csv", lambda path: path.write_text("before") and None)
    with pytest.raises(type(error)):
        store.write_artefact("a", "curve.csv", broken_writer(error))
    assert leftovers(tmp_path) == ["_artefacts/a/SHA256SUMS", "_artefacts/a/curve.csv"]
    assert store.artefact_path("a", "curve.csv").read_text() == "before"


def test_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, full = Store(tmp_path), OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with pytest.raises(StoreError, match="No space left on device"):
        store.write_artefact("a", "features.npz", broken_writer(full))

    def fsync(_: int) -> None:
        raise full

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(StoreError, match=r"a\.parquet cannot be written: No space left on device.*--results"):
        store.write_row(make_row())
    assert not leftovers(tmp_path)
    assert store.statuses() == {}


def test_killed_while_writing(tmp_path: Path) -> None:
    """A partial file of a killed process is not a row."""
    code = (
        "import os, signal, sys; from pathlib import Path; from vpbench.store.store import Store\n"
        "def die(path): path.write_bytes(b'half'); os.kill(os.getpid(), signal.SIGKILL)\n"
        "store = Store(sys.argv[1]); store.write_file(store.row_path('a'), die)"
    )
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=root, check=False)
    assert done.returncode < 0
    store = Store(tmp_path)
    assert len(leftovers(tmp_path)) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert store.load().empty
    assert store.statuses() == {}
    store.write_row(make_row())
    assert len(pd.read_parquet(tmp_path)) == 1


def test_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    for store in (Store(tmp_path / "file"), Store(tmp_path / "file" / "below")):
        for attempt in (
            store.check_writable,
            lambda store=store: store.write_row(make_row()),
            lambda store=store: store.write_artefact("a", "curve.csv", lambda path: path.write_text("") and None),
        ):
            with pytest.raises(StoreError, match=r"cannot be written.*--results FOLDER") as caught:
                attempt()
            assert "\n" not in str(caught.value)
    assert leftovers(tmp_path) == ["file"]


def test_read_only_folder(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        if os.access(tmp_path, os.W_OK):
            pytest.skip("the superuser writes to read-only folders: test_folder_that_cannot_be_written stands in")
        with pytest.raises(StoreError, match="Permission denied"):
            Store(tmp_path).check_writable()
        with pytest.raises(StoreError, match="Permission denied"):
            Store(tmp_path).write_row(make_row())
    finally:
        tmp_path.chmod(0o700)


def test_check_leaves_nothing(tmp_path: Path) -> None:
    Store(tmp_path / "new").check_writable()
    assert not leftovers(tmp_path)
    assert (tmp_path / "new").is_dir()


def _write_many(folder: str, name: str) -> None:
    for number in range(15):
        Store(folder).write_row(make_row(f"{name}{number:02}"))
        Store(folder).write_row(make_row("contested", error=name))
        Store(folder).write_artefact("contested", "curve.csv", lambda path: path.write_text(name) and None)


def test_two_processes_at_once(tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("fork")
    workers = [spawn.Process(target=_write_many, args=(str(tmp_path), name)) for name in ("p", "q")]
    for worker in workers:
        worker.start()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        while any(worker.is_alive() for worker in workers):
            Store(tmp_path).load()  # never sees half a row
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    assert len(Store(tmp_path).load()) == 31
    assert len(leftovers(tmp_path)) == 33
    assert Store(tmp_path).artefact_path("contested", "curve.csv").read_text() in ("p", "q")


# --- reading


@pytest.mark.parametrize("exists", [True, False])
def test_no_rows(exists: bool, tmp_path: Path) -> None:
    store = Store(tmp_path if exists else tmp_path / "nowhere")
    frame = store.load()
    assert list(frame.columns) == list(COLUMNS)
    assert frame.empty
    assert store.statuses() == {}
    assert not (tmp_path / "nowhere").exists()


def test_order(tmp_path: Path) -> None:
    for run_id in "cab":
        Store(tmp_path).write_row(make_row(run_id))
    assert list(Store(tmp_path).load()["run_id"]) == ["a", "b", "c"]


ROW = {"run_id": ["b"], "status": ["ok"], "method": ["vpt"], "dataset": ["digits"]}
BROKEN: dict[str, Callable[[Path, bytes], Any]] = {
    "empty": lambda path, good: path.write_bytes(b""),
    "text": lambda path, good: path.write_text("a,b\n1,2\n"),
    "truncated": lambda path, good: path.write_bytes(good[: len(good) // 2]),
    "tail only": lambda path, good: path.write_bytes(b"PAR1" + b"\0" * 40 + good[-8:]),
    "damaged footer": lambda path, good: path.write_bytes(good[:-200] + b"\xff" * 190 + good[-10:]),
    "folder": lambda path, good: path.mkdir(),
    "dangling link": lambda path, good: path.symlink_to("nowhere"),
    "no run_id": lambda path, good: write_table(path, pa.table({"status": ["ok"]})),
    "text for a number": lambda path, good: write_table(path, pa.table({**ROW, "acc1": ["high"]})),
}


@pytest.mark.parametrize("damage", BROKEN.values(), ids=BROKEN)
def test_broken_file_is_left_out(damage: Callable[[Path, bytes], Any], tmp_path: Path) -> None:
    store = Store(tmp_path)
    for run_id in "ac":
        store.write_row(make_row(run_id))
    damage(tmp_path / "b.parquet", (tmp_path / "a.parquet").read_bytes())
    with pytest.warns(UserWarning, match=r"b\.parquet is not a readable result and is left out") as caught:
        frame = store.load()
    assert len(caught) == 1
    assert "\n" not in str(caught[0].message)
    assert caught[0].filename == __file__
    assert list(frame["run_id"]) == ["a", "c"]


@pytest.mark.parametrize("kind", sorted(BROKEN))
def test_broken_file_has_no_status(kind: str, tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.write_row(make_row("a"))
    BROKEN[kind](tmp_path / "b.parquet", (tmp_path / "a.parquet").read_bytes())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert store.statuses() == {"a": "ok"}


def test_older_file(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.write_row(make_row("b", flops_forward=7))
    write_table(tmp_path / "a.parquet", pa.table({**ROW, "run_id": ["a"], "status": ["oom"], "seed": pa.array([4], pa.int32())}))
    frame = store.load().set_index("run_id")
    assert frame.loc["a", "seed"] == 4
    assert pd.isna(frame.loc["a", "flops_forward"])
    assert frame.loc["b", "flops_forward"] == 7
    assert list(store.load().columns) == list(COLUMNS)
    assert store.statuses() == {"a": "oom", "b": "ok"}


def test_newer_file(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.write_row(make_row("a"))
    table = pq.read_table(store.write_row(make_row("b"))).append_column("energy_j", pa.array([3.5]))
    table = table.set_column(table.column_names.index("acc1"), "acc1", pa.array([60], pa.int16()))
    write_table(tmp_path / "b.parquet", table.replace_schema_metadata({"vpbench_schema": "99"}))
    frame = store.load()
    assert list(frame.columns) == [*COLUMNS, "energy_j"]
    assert pd.isna(frame.loc[0, "energy_j"])
    assert frame.loc[1, ["energy_j", "acc1"]].tolist() == [3.5, 60.0]
    assert frame["acc1"].dtype == float


def test_other_tools_read_the_folder(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for run_id in "ab":
        store.write_row(make_row(run_id))
        store.write_artefact(run_id, "curve.csv", lambda path: path.write_text("epoch\n1\n") and None)
        store.write_artefact(run_id, "weights.safetensors", lambda path: path.write_bytes(b"\0" * 100) and None)
    frame = pd.read_parquet(tmp_path)
    assert list(frame["run_id"]) == ["a", "b"]
    assert pq.read_table(tmp_path).schema.names == SCHEMA.names
    pd.testing.assert_frame_equal(frame, store.load(), check_dtype=False)


def test_folder_can_be_moved(tmp_path: Path) -> None:
    Store(tmp_path / "old").write_row(make_row())
    shutil.move(tmp_path / "old", tmp_path / "new")
    assert Store(tmp_path / "new").statuses() == {"a": "ok"}


def test_every_column_is_described() -> None:
    undescribed = {name for name, (_, text) in COLUMNS.items() if not text}
    assert undescribed == {"vpbench_version", "python", "torch", "timm"}  # which say it themselves


def test_several_runs_that_begin_alike_are_listed(tmp_path: Path) -> None:
    from vpbench.store.find_run import find_run_id, latest_runs

    store = Store(tmp_path)
    for run_id in ("3fa9" + "0" * 28, "3fb1" + "1" * 28, "77" + "2" * 30):
        store.write_row(make_row(run_id))
    assert find_run_id(store, "3fa") == "3fa9" + "0" * 28
    with pytest.raises(StoreError, match=r"2 runs begin with '3f' \(3fa90000, 3fb11111\); use more digits"):
        find_run_id(store, "3f")
    store.write_row(make_row("3fa90000" + "1" * 24))
    with pytest.raises(StoreError, match=r"\(3fa900000, 3fa900001, 3fb111111\); use more digits"):
        find_run_id(store, "3f")
    store.row_path("3fa90000" + "1" * 24).unlink()
    with pytest.raises(StoreError, match=r"no run '9' \(3 runs there"):
        find_run_id(store, "9")
    runs, left_out = latest_runs(store)
    assert len(runs) == 3 and not left_out
