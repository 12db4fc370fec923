"""One file from many, while others read and write, and whenever the process dies."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from store_rows import accuracies, fill, make_row

from vpbench.core.errors import StoreError, UsageError
from vpbench.store import reading
from vpbench.store.claims import COMPACTING
from vpbench.store.compacting import compact
from vpbench.store.store import Store

IDS = [f"run{number:02}" for number in range(12)]
EXPECTED = {run_id: float(number) for number, run_id in enumerate(IDS)}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Twelve runs, four of them compacted, one of these done again since."""
    store = fill(tmp_path, *(make_row(run_id, acc1=EXPECTED[run_id] - (run_id == IDS[0])) for run_id in IDS[:4]))
    compact(store)
    return fill(tmp_path, *(make_row(run_id, acc1=EXPECTED[run_id]) for run_id in [IDS[0], *IDS[4:]]))


def names(store: Store) -> list[str]:
    """Without what a killed writer left, which is hidden."""
    return list(reading.list_files(store.folder))


def in_a_child(work: Callable[[], object]) -> int:
    """Start ``work`` in a process of its own, which ends with it; its id."""
    child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os._exit(0)
    return child


def test_all_rows_are_in_one_file(store: Store) -> None:
    before = store.load()
    store.write_artefact(IDS[0], "curve.csv", lambda path: path.write_text("epoch\n") and None)
    done = compact(store)
    assert names(store) == [done.path.name] == ["compacted-000002-" + done.path.stem[-8:] + ".parquet"]
    assert (done.rows, done.merged, done.left, done.broken) == (12, 10, 0, [])
    for found in (store.load(), Store(store.folder).load(), pd.read_parquet(store.folder).reset_index(drop=True)):
        pd.testing.assert_frame_equal(found, before, check_dtype=False)
    assert accuracies(store) == EXPECTED
    assert store.statuses() == dict.fromkeys(IDS, "ok")
    assert store.artefact_path(IDS[0], "curve.csv").exists()
    assert store.claims.held() == {}


def test_a_second_time_there_is_nothing_to_do(store: Store) -> None:
    compact(store)
    before = names(store)
    assert compact(store).path is None
    assert names(store) == before


def test_one_row_of_many(store: Store) -> None:
    before = {run_id: store.read_row(run_id) for run_id in [*IDS, "none"]}
    assert before[IDS[0]] is not None and before[IDS[0]]["acc1"] == EXPECTED[IDS[0]]
    compact(store)
    assert {run_id: store.read_row(run_id) for run_id in [*IDS, "none"]} == before
    store.write_row(make_row(IDS[3], acc1=99.0))
    assert (store.read_row(IDS[3]) or {})["acc1"] == 99.0
    assert accuracies(store)[IDS[3]] == 99.0


def test_broken_and_foreign_files_stay(store: Store) -> None:
    (store.folder / "broken.parquet").write_bytes(b"no")
    store.row_path(IDS[5]).rename(store.folder / "study.parquet")
    done = compact(store)
    assert [path.name for path, _ in done.broken] == ["broken.parquet"]
    assert {"broken.parquet", "study.parquet"} < set(names(store))
    assert len(names(store)) == 3
    with pytest.warns(UserWarning, match=r"broken\.parquet"):
        assert len(store.load()) == 12


def test_a_run_under_way_keeps_its_file(store: Store, tmp_path: Path) -> None:
    with store.claims.claim(IDS[7]) as ours:
        assert ours
        done = compact(Store(tmp_path))
        assert done.left == 1
        store.write_row(make_row(IDS[7], acc1=70.0))
    assert accuracies(store) == {**EXPECTED, IDS[7]: 70.0}
    assert compact(store).rows == 12
    assert accuracies(store) == {**EXPECTED, IDS[7]: 70.0}


def test_a_row_that_is_written_meanwhile_stays(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    written = Store.write_compacted

    def and_another(self: Store, rows: object) -> Path:
        path = written(self, rows)
        fill(self.folder, make_row(IDS[9], acc1=90.0), make_row("late", acc1=91.0))
        return path

    monkeypatch.setattr(Store, "write_compacted", and_another)
    assert compact(store).left == 1
    assert accuracies(store) == {**EXPECTED, IDS[9]: 90.0, "late": 91.0}


def test_one_at_a_time(store: Store) -> None:
    before = names(store)
    with store.claims.claim(COMPACTING), pytest.raises(StoreError, match="another command is compacting"):
        compact(Store(store.folder))
    assert names(store) == before
    assert COMPACTING not in store.claims.held()


@pytest.mark.sweep
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_killed_at_every_step(store: Store) -> None:
    """The process dies before it opens, renames or removes its first file, its second, ...; then the next one finishes."""

    def die_at(step: int) -> None:
        left = iter(range(step))

        def hook(event: str, about: tuple[object, ...]) -> None:
            if event == "open" and reading.COMPACTED in str(about[0]) and about[1] in ("r", "rb"):
                return  # every death may leave another compacted file, and reading one more must not take one more death
            if event in ("open", "os.rename", "os.remove") and next(left, None) is None:
                os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(hook)
        compact(store)

    step, states = 0, set()
    while True:
        _, status = os.waitpid(in_a_child(lambda step=step: die_at(step)), 0)
        assert accuracies(store) == EXPECTED
        assert store.statuses() == dict.fromkeys(IDS, "ok")
        states.add(len(names(store)))
        if not os.WIFSIGNALED(status):
            break
        step += 1
    assert len(states) > 8  # the new file beside none, some and all of the old ones
    compact(store)
    assert len(names(store)) == 1
    assert not list(store.folder.glob(".*"))
    assert accuracies(store) == EXPECTED


@pytest.mark.sweep
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_killed_at_random_while_others_read_and_write(store: Store) -> None:
    def write_forever() -> None:
        while True:
            with store.claims.claim(IDS[2]) as ours:
                if ours:
                    store.write_row(make_row(IDS[2], acc1=EXPECTED[IDS[2]]))

    def compact_and_fill() -> None:
        while True:
            compact(store)
            fill(store.folder, *(make_row(run_id, acc1=EXPECTED[run_id]) for run_id in IDS[4:]))

    writer, chance = in_a_child(write_forever), random.Random(0)
    try:
        for _ in range(8):
            compacting, end = in_a_child(compact_and_fill), time.monotonic() + chance.uniform(0.02, 0.2)
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("error")
                    while time.monotonic() < end:
                        assert accuracies(store) == EXPECTED
                        assert (Store(store.folder).read_row(IDS[5]) or {})["acc1"] == EXPECTED[IDS[5]]
            finally:
                os.kill(compacting, signal.SIGKILL)
                os.waitpid(compacting, 0)
            assert accuracies(store) == EXPECTED
    finally:
        os.kill(writer, signal.SIGKILL)
        os.waitpid(writer, 0)
    compact(store)
    assert len(names(store)) == 1
    assert accuracies(store) == EXPECTED


def test_what_disappears_between_listing_and_reading(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that is compacted after its files were listed, and while they are."""
    listed = reading._names
    calls = iter(range(100))

    def half_listed(folder: Path) -> list[str]:
        found = listed(folder)
        if next(calls) == 0:
            compact(store)
            return found[6:]  # those that the listing came by before the others were removed
        return found

    monkeypatch.setattr(reading, "_names", half_listed)
    assert accuracies(store) == EXPECTED

    def stale(folder: Path) -> dict[str, str]:
        monkeypatch.setattr(reading, "list_files", whole)
        files = whole(folder)
        fill(store.folder, make_row("more", acc1=1.0))
        compact(store)
        return files

    whole = reading.list_files
    monkeypatch.setattr(reading, "list_files", stale)
    assert accuracies(store) == {**EXPECTED, "more": 1.0}


def test_only_some_columns(store: Store) -> None:
    frame = store.load(["acc1", "run_id", "params_active"])
    assert list(frame.columns) == ["acc1", "run_id", "params_active"]
    assert dict(zip(frame["run_id"], frame["acc1"])) == EXPECTED
    with pytest.raises(UsageError, match=r"unknown column 'metod'\. Did you mean 'method'\?"):
        store.load(["metod"])


def test_some_columns_through_the_copy(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "WORTH_A_COPY", 3)
    monkeypatch.setattr(reading, "WORTH_A_NEW_COPY", 3)
    for _ in range(2):
        assert accuracies(store) == EXPECTED
        assert (store.folder / "_cache" / "rows.arrow").exists()
    fill(store.folder, make_row(IDS[6], acc1=60.0))
    assert accuracies(store) == {**EXPECTED, IDS[6]: 60.0}
    compact(store)
    assert not (store.folder / "_cache" / "rows.arrow").exists()
    assert accuracies(store) == {**EXPECTED, IDS[6]: 60.0}
