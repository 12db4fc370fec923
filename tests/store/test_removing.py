"""Runs are removed with what lies beside them; nothing else changes, whenever the process dies."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from store_rows import accuracies, fill, make_row

from vpbench.core.errors import StoreError, VpbenchError
from vpbench.store.claims import COMPACTING
from vpbench.store.compacting import compact
from vpbench.store.reading import compacted_files
from vpbench.store.removing import find_runs, remove_runs
from vpbench.store.store import Store

IDS = ["aa1", "aa2", "b1", "c1", "d1"]
EXPECTED = {run_id: float(number) for number, run_id in enumerate(IDS)}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Five runs: aa1, aa2 and b1 compacted, aa1 done again since; aa1 and c1 have artefacts, c1 a log."""
    fill(tmp_path, *(make_row(run_id, acc1=EXPECTED[run_id] + 50 * (run_id == "aa1")) for run_id in IDS[:3]))
    compact(Store(tmp_path))
    store = fill(tmp_path, *(make_row(run_id, acc1=EXPECTED[run_id]) for run_id in ("aa1", "c1", "d1")))
    for run_id in ("aa1", "c1"):
        store.write_artefact(run_id, "curve.csv", lambda path: path.write_text("epoch\n") and None)
    store.log_path("c1").parent.mkdir()
    store.log_path("c1").write_text("hello\n")
    store.write_checkpoint("e1", b"half")
    return store


def remove(store: Store, *beginnings: str) -> list[str]:
    run_ids = [run.run_id for run in find_runs(store, beginnings)]
    remove_runs(store, run_ids)
    return run_ids


def test_what_there_is_of_runs(store: Store) -> None:
    found = find_runs(store, ["c", "aa1", "e1", "c1"])
    assert [(run.run_id, run.has_row, [path.name for path in run.beside]) for run in found] == [
        ("c1", True, ["c1", "c1.log"]), ("aa1", True, ["aa1"]), ("e1", False, ["e1.pt"])
    ]  # fmt: skip
    assert found[0].facts == {"run_id": "c1", "status": "ok", "method": "vpt", "dataset": "digits", "seed": 0}
    assert found[0].bytes_beside > 6


def test_rows_and_what_lies_beside_them_go(store: Store) -> None:
    """The row of ``aa1`` that was compacted does not come back when that of its own file goes."""
    old = compacted_files(store.folder)
    assert remove(store, "aa1", "c", "e1") == ["aa1", "c1", "e1"]
    assert accuracies(store) == accuracies(Store(store.folder)) == {run_id: EXPECTED[run_id] for run_id in ("aa2", "b1", "d1")}
    (new,) = compacted_files(store.folder)
    assert new not in old and new.name.startswith("compacted-000001-")
    assert not list(store.artefacts_folder.iterdir()) and not list(store.logs_folder.iterdir())
    assert store.read_row("aa1") is None and store.read_checkpoint("e1") is None
    assert store.claims.held() == {}
    remove(store, "aa2", "b", "d")
    assert not list(store.folder.glob("*.parquet"))


def test_other_compacted_files_keep_their_age(store: Store) -> None:
    """What is rewritten does not become newer than what replaced it."""
    older = compacted_files(store.folder)[0].read_bytes()
    compact(store)
    (store.folder / "compacted-000001-00000000.parquet").write_bytes(older)
    assert len(compacted_files(store.folder)) == 2
    remove(store, "b1")
    assert len(compacted_files(store.folder)) == 2
    assert accuracies(store) == {run_id: value for run_id, value in EXPECTED.items() if run_id != "b1"}


@pytest.mark.parametrize(
    ("beginning", "part"),
    [("x", "no run 'x'"), ("aa", r"2 runs begin with 'aa' \(aa1, aa2\); use more digits"), ("", "is empty")],
)
def test_what_is_not_one_run(store: Store, beginning: str, part: str) -> None:
    with pytest.raises(VpbenchError, match=part):
        find_runs(store, ["d1", beginning])
    assert accuracies(store) == EXPECTED


def test_a_broken_row_file_can_be_removed(store: Store) -> None:
    store.row_path("f1").write_bytes(b"no")
    assert not find_runs(store, ["f1"])[0].facts.keys() - {"run_id"}
    remove(store, "f1")
    assert not store.row_path("f1").exists()


def test_rows_in_files_of_others_stay(store: Store) -> None:
    pq.write_table(pq.read_table(store.row_path("c1")), store.folder / "study.parquet")
    for _ in range(2):  # beside a row file, and alone
        with pytest.raises(StoreError, match=r"c1 is in .*study\.parquet, a file that vpbench has not written"):
            find_runs(store, ["c1"])
        store.row_path("c1").unlink(missing_ok=True)
    remove(store, "d1")
    assert "c1" in accuracies(store)


def test_an_id_that_leads_out_of_the_folder(store: Store, tmp_path: Path) -> None:
    """As a file of another program may have it."""
    outside = tmp_path.parent / "outside"
    outside.mkdir(exist_ok=True)
    (outside / "mine.txt").write_text("mine")
    table = pq.read_table(store.row_path("d1"))
    run_ids = pa.array(["../../outside"])
    pq.write_table(table.set_column(0, table.schema.field(0), run_ids), store.folder / "compacted-000009-00000000.parquet")
    with pytest.raises(StoreError, match=r"no run '\.\./\.\./outside'"):  # such a row is left out
        find_runs(store, ["../../outside"])
    with pytest.raises(StoreError, match="is no name for a file"):
        remove_runs(store, ["../../outside"])
    assert (outside / "mine.txt").exists()


def test_what_is_under_way_stays(store: Store) -> None:
    other = Store(store.folder)
    with store.claims.claim("d1"), pytest.raises(StoreError, match="run d1 is under way"):
        remove(other, "c1", "d1")
    with store.claims.claim(COMPACTING), pytest.raises(StoreError, match="another command is compacting"):
        remove(other, "c1")
    assert accuracies(store) == EXPECTED


def test_many_at_a_time(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vpbench.store.removing.AT_ONCE", 2)
    remove(store, *IDS[:4])
    assert accuracies(store) == {"d1": 4.0}


@pytest.mark.sweep
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_killed_at_every_step(store: Store) -> None:
    """A run is there as it was, or gone; the next command removes the rest."""

    def die_at(step: int) -> None:
        left = iter(range(step))

        def hook(event: str, about: tuple[object, ...]) -> None:
            if event in ("open", "os.rename", "os.remove", "os.rmdir") and next(left, None) is None:
                os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(hook)
        remove_runs(store, ["aa1", "c1", "e1"])

    step, kept = 0, {run_id: EXPECTED[run_id] for run_id in ("aa2", "b1", "d1")}
    while True:
        child = os.fork()
        if child == 0:
            try:
                die_at(step)
            finally:
                os._exit(0)
        _, status = os.waitpid(child, 0)
        found = accuracies(store)
        assert kept.items() <= found.items() <= EXPECTED.items()
        if not os.WIFSIGNALED(status):
            break
        step += 1
    assert step > 8
    assert accuracies(store) == kept
    assert not list(store.artefacts_folder.iterdir())
