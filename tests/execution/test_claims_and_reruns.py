"""Who does a run that several commands ask for, and which runs are done again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from local_runs import BARE, Notes, jobs_of, planned, run_job

from vpbench.core.errors import StoreError, UsageError
from vpbench.execution.callbacks import Callback
from vpbench.execution.execute_plan import execute_plan
from vpbench.execution.executors.inline import Inline
from vpbench.execution.job import row_since, row_version
from vpbench.execution.opened_data import OpenedData
from vpbench.planning.plan import PlannedRun, plan_runs
from vpbench.planning.rerun import to_repeat
from vpbench.spec.request import Request
from vpbench.spec.run_options import RunOptions
from vpbench.store.store import Store

pytestmark = pytest.mark.usefixtures("quick")


HOLDER = """
import sys
from vpbench.store.store import Store
with Store(sys.argv[1]).claims.claim("abc", label="held elsewhere", place="gpu 1") as ours:
    print(ours, flush=True)
    sys.stdin.read()
"""


@pytest.mark.sweep
def test_a_claim_dies_with_its_process(store: Store) -> None:
    root = Path(__file__).parents[2]
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, store.folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(root)},
    )  # fmt: skip
    assert holder.stdout
    assert holder.stdout.readline() == "True\n"
    (about,) = store.claims.held().values()
    assert about["label"] == "held elsewhere"
    assert about["pid"] == holder.pid
    with store.claims.claim("abc") as ours:
        assert not ours
    with store.claims.claim("def") as ours:
        assert ours
    holder.kill()
    holder.communicate()
    assert store.claims.held() == {}
    with store.claims.claim("abc") as ours:
        assert ours
    assert list(store.claims.folder.iterdir()) == []


def test_a_claim_where_nothing_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="--results FOLDER"), Store(tmp_path / "file").claims.claim("abc"):
        pass


@pytest.mark.sweep
def test_a_run_that_another_command_does_comes_last_and_is_not_done_twice(images: Path, store: Store) -> None:
    first, second = jobs_of(images, store, seeds=2)
    notes, before = Notes(), run_job(first, Store(images.parent / "other"))
    entered = threading.Event()

    def other_command() -> None:
        with store.claims.claim(first.run_id):
            entered.set()
            time.sleep(2)
            store.write_row({**before, "recipe_source": "the other command"})

    thread = threading.Thread(target=other_command)
    thread.start()
    entered.wait()
    found = list(Inline()([first, second], store, notes, OpenedData()))
    thread.join()
    assert [row["run_id"] for row in found] == [second.run_id, first.run_id]
    assert found[1]["recipe_source"] == "the other command"
    assert (notes.finished_runs, notes.found_runs) == ([second.run_id], [first.run_id])
    assert notes.notes == ["Another command is working on 1 of these runs; waiting for it."]


def test_a_row_of_before_is_no_row_of_now(images: Path, store: Store) -> None:
    (job,) = jobs_of(images, store)
    assert row_since(job, store) is None
    run_job(job, store)
    row = row_since(job, store)
    assert row is not None
    again = job.model_copy(update={"replaces": row_version(row)})
    assert row_since(again, store) is None


def test_drained(images: Path, store: Store) -> None:
    """As by Ctrl-C while the first run is under way: it finishes, nothing new starts, and the same command continues."""
    plan = planned(images, store, seeds=3)

    class Interrupts(Notes):
        def started(self, run: PlannedRun) -> None:
            os.kill(os.getpid(), signal.SIGINT)

    callback = Interrupts()
    with pytest.raises(KeyboardInterrupt):
        execute_plan(plan, store, BARE, callback)
    assert callback.finished_runs == [plan.runs[0].spec.run_id]
    assert "Ctrl-C again stops at once" in callback.notes[0]
    assert signal.getsignal(signal.SIGINT) == signal.default_int_handler
    assert list(store.claims.folder.iterdir()) == []
    again = planned(images, store, seeds=3)
    assert [run.spec.seed for run in again.missing] == [44, 82]
    assert len(execute_plan(again, store, RunOptions(save=(), limit=1))) == 2
    assert len(planned(images, store, seeds=3).missing) == 1


def test_interrupted_twice(images: Path, store: Store) -> None:
    class Interrupts(Callback):
        def started(self, run: PlannedRun) -> None:
            for _ in range(2):
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(0.01)

    with pytest.raises(KeyboardInterrupt):
        execute_plan(planned(images, store), store, BARE, Interrupts())
    assert not list(store.folder.glob("*.parquet"))


# Repeating


def test_rerun(images: Path, store: Store) -> None:
    jobs = jobs_of(images, store, seeds=3)
    rows = [run_job(job, store) for job in jobs]
    store.write_row({**rows[0], "status": "diverged"})
    store.write_row({**rows[1], "torch": "1.0"})
    ids = [job.run_id for job in jobs]
    assert to_repeat(None, store) == frozenset()
    assert to_repeat("failed", store) == {ids[0]}
    assert to_repeat("stale", store) == {ids[1]}
    assert to_repeat("all", store) == set(ids)
    with pytest.raises(UsageError, match="Did you mean 'failed'"):
        to_repeat("fail", store)
    assert planned(images, store, seeds=3).missing == []
    request = Request(
        methods=("linear",), data=str(images), image_size=32, epochs=1, seeds=3, device="cpu", precision="fp32"
    )  # fmt: skip
    plan = plan_runs(request, RunOptions(save=(), rerun="failed"), store)
    assert [run.spec.run_id for run in plan.missing] == [ids[0]]
    frame = execute_plan(plan, store, BARE).set_index("run_id")
    assert frame["status"].tolist() == ["ok"] * 3
    assert frame.loc[ids[0], "started_at"] > rows[2]["started_at"]
    assert frame.loc[ids[2], "started_at"].to_pydatetime() <= rows[2]["started_at"]
