"""The executor ``slurm`` on a real Slurm: slurmctld and slurmd on this machine, see ``slurm_cluster``."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from slurm_cluster import PARTITION
from tiny_grid import Heard, check_same, jobs_of, search, write_space

from vpbench.core.errors import UsageError
from vpbench.execution.executor import get_executor
from vpbench.execution.opened_data import OpenedData
from vpbench.planning.plan import Request
from vpbench.store.store import Store

pytest.importorskip("submitit", reason="submitit is not installed (pip install 'vpbench[slurm]'); SLURM IS NOT TESTED")

from vpbench.execution.executors.slurm.collect import Collected, collect
from vpbench.execution.executors.slurm.commands import minutes, queue
from vpbench.execution.executors.slurm.submission import submissions

pytestmark = [pytest.mark.scale, pytest.mark.usefixtures("slurm_cluster")]
WAIT_S = 120


def command(*words: str) -> str:
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout


def wait(ready: Callable[[], Any], what: str) -> None:
    deadline = time.monotonic() + WAIT_S
    while not ready():
        assert time.monotonic() < deadline, f"{what}; {command('squeue', '-r')}"
        time.sleep(0.2)


def test_same_rows(request_for_grid: Request, inline: Path, tmp_path: Path) -> None:
    """An array of two tasks with two runs each; its files are kept, its note is not."""
    jobs, store = jobs_of(request_for_grid, tmp_path / "runs", count=4, checkpoint_blocks=True)
    heard = Heard()
    made = get_executor("slurm", partition=PARTITION, time="0:30:00", cpus=1, per_task=2)
    rows = list(made(jobs, store, heard, OpenedData()))
    assert sorted(row["run_id"] for row in rows) == sorted(job.run_id for job in jobs)
    assert sorted(heard.finished_runs) == sorted(heard.started_runs) == sorted(job.run_id for job in jobs)
    check_same(store.folder, inline, count=4)
    assert store.load()["checkpoint_blocks"].all()
    assert not submissions(store)
    assert not store.claims.held()


def test_same_rows_of_a_segmentation(request_for_masks: Request, inline_masks: Path, tmp_path: Path) -> None:
    jobs, store = jobs_of(request_for_masks, tmp_path / "runs")
    list(get_executor("slurm", cpus=1, per_task=2)(jobs, store, Heard(), OpenedData()))
    check_same(store.folder, inline_masks, count=2)
    assert store.load()["metric"].tolist() == ["miou"] * 2


def test_requeue_preemption_and_cancel(request_for_grid: Request, inline: Path, orders: Path, tmp_path: Path) -> None:
    """A task that is requeued, by an administrator or on preemption, goes on with its run where it was, to the same numbers;
    one that is cancelled becomes a row that says so. Submitted, left, and collected later; meanwhile nobody submits it again.
    """
    jobs, store = jobs_of(request_for_grid, tmp_path / "runs", count=3)
    orders.write_text("".join(f"hang {job.run_id}\n" for job in jobs))
    heard = Heard()
    made = get_executor("slurm", cpus=1, gres="gpu:0", workers=2, detach=True)
    assert list(made(jobs, store, heard, OpenedData())) == []
    (submission,) = submissions(store)
    assert f"Slurm job {submission.slurm_job}." in heard.notes[0]
    assert "vpbench status --collect" in heard.notes[1]
    wait(lambda: len(store.claims.held()) == 2, "two tasks run")
    assert collect(store) == Collected(running=2, pending=1)
    wait(lambda: all("waiting" in store.log_path(job.run_id).read_text() for job in jobs[:2]), "both are at a step")

    command("scontrol", "requeue", submission.name(0))
    command("scancel", "--signal=USR2", submission.name(1))  # what submitit has Slurm send before it takes the node away
    wait(lambda: "Requeued job" in store.log_path(jobs[1].run_id).read_text(), "submitit requeues")
    wait(lambda: restarts(submission.name(0)) == restarts(submission.name(1)) == 1, "both are requeued")
    orders.write_text(f"hang {jobs[2].run_id}\n")
    wait(lambda: store.row_path(jobs[0].run_id).exists() and store.row_path(jobs[1].run_id).exists(), "both are done")
    for job in jobs[:2]:
        assert "resumes from its checkpoint" in store.log_path(job.run_id).read_text()
    wait(lambda: list(store.claims.held()) == [jobs[2].run_id], "the third runs")

    assert list(get_executor("slurm", detach=True)(jobs[2:], store, heard)) == []
    assert "In Slurm's queue already: 1 run of 1." in heard.notes
    assert len(submissions(store)) == 1
    command("scancel", "--signal=KILL", submission.name(2))
    command("scancel", submission.name(2))
    wait(lambda: not queue([submission.slurm_job]), "the queue is empty")
    assert collect(store) == Collected(finished=2, lost=[jobs[2].run_id])
    rows = store.load().set_index("run_id")
    assert rows.loc[jobs[2].run_id, "status"] == "failed"
    assert "ended as CANCELLED before the run had a row" in rows.loc[jobs[2].run_id, "error"]
    assert not submissions(store)
    store.row_path(jobs[2].run_id).unlink()
    check_same(store.folder, inline, count=2)


def restarts(name: str) -> int:
    shown = command("scontrol", "show", "job", "-o", name)
    return int(next(word for word in shown.split() if word.startswith("Restarts=")).partition("=")[2])


def test_a_run_that_kills_its_task(request_for_grid: Request, orders: Path, tmp_path: Path) -> None:
    """It is submitted again as often as asked for, and then its row says so."""
    jobs, store = jobs_of(request_for_grid, tmp_path / "runs", count=1)
    orders.write_text(f"kill {jobs[0].run_id}\n")
    heard = Heard()
    (row,) = get_executor("slurm", retries=1)(jobs, store, heard, OpenedData())
    assert row["status"] == "failed"
    assert "ended as FAILED" in row["error"]
    assert sum("is retried" in note for note in heard.notes) == 1


def test_a_search_in_parts(images: Path, tmp_path: Path) -> None:
    """Given again it goes on with the missing trials; they and the final run are those of inline, and the same one wins."""
    grid = ["--space", write_space(tmp_path / "four.toml")]
    words = [*grid, "--executor", "slurm", "--executor-option", "per_task=2", "--executor-option", f"partition={PARTITION}"]
    part = search(images, tmp_path / "slurm", *words, "--limit", 2)
    assert part.code == 0, part.err
    assert "the same command goes on" in part.err
    assert len(Store(tmp_path / "slurm").load()) == 2

    outcomes = [search(images, tmp_path / place, *more, "--json") for place, more in (("slurm", words), ("inline", grid))]
    assert [outcome.code for outcome in outcomes] == [0, 0], outcomes
    assert json.loads(outcomes[0].out) == json.loads(outcomes[1].out)
    check_same(tmp_path / "slurm", tmp_path / "inline", count=5)
    assert not submissions(Store(tmp_path / "slurm"))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"partition": "nope"}, "partition=nope: .*nvalid partition.* Partitions here: tiny"),
        ({"gres": "gpu:64"}, "gres=gpu:64: .*not available"),
        ({"time": "soon"}, "time soon: write minutes"),
        ({"partitoin": "x"}, "partitoin"),
        ({"cpus": "two"}, "cpus two: take 1 or more, a whole number"),
        ({"detach": "yes"}, "detach yes: write true or false"),
    ],
)
def test_what_slurm_would_refuse(options: dict[str, Any], text: str) -> None:
    """One line with Slurm's reason, and nothing is submitted."""
    before = command("squeue", "-h")
    with pytest.raises(UsageError, match=text) as caught:
        get_executor("slurm", **options)
    assert "\n" not in str(caught.value)
    assert command("squeue", "-h") == before


def test_no_cluster(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Slurm's programs are there, and know of no cluster."""
    (tmp_path / "slurm.conf").touch()
    monkeypatch.setenv("SLURM_CONF", str(tmp_path / "slurm.conf"))
    with pytest.raises(UsageError, match=r"no cluster answers here .* login node"):
        get_executor("slurm")


def test_no_slurm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UsageError, match="no sbatch here"):
        get_executor("slurm")


@pytest.mark.parametrize(
    ("text", "expected"),
    [("90", 90), ("1:30", 2), ("02:30:00", 150), ("1-0", 1440), ("2-12:30", 3630), ("1-00:00:01", 1441), ("0:10", 1)],
)
def test_times(text: str, expected: int) -> None:
    assert minutes(text) == expected
