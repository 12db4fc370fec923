"""Worker processes give the rows that this process gives, and a run that ruins its worker costs itself alone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from command import UNMEASURED, row_files, rows, start, traces, vpbench

from vpbench.execution.executors.local import worker
from vpbench.planning.expected_time import Work
from vpbench.store.schema import REPRODUCIBLE
from vpbench.store.store import Store

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no signals")

FAULTY = """
import os
import signal
import time

from vpbench.interface import Method, MethodConfig, Preset, option


class FaultyConfig(MethodConfig):
    fault: str = option("raise", "what goes wrong", source="this test")


class Faulty(Method[FaultyConfig]):
    title = summary = paper = "ruins its process"
    fidelity = "paper"
    Config = FaultyConfig
    presets = {
        name: Preset("goes wrong", {"fault": name}) for name in ("kill", "hang", "sleep", "crash")
    }

    def phases(self, session):
        print("about to", self.config.fault)
        if self.config.fault == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.config.fault == "hang":
            signal.signal(signal.SIGALRM, signal.SIG_IGN)  # as in a library that never gives control back
            time.sleep(600)
        if self.config.fault == "sleep":
            time.sleep(600)
        raise ValueError("the moon is full")
"""


@pytest.mark.sweep  # the executor by itself is in tests/execution/test_local.py and test_jobs.py
@pytest.mark.usefixtures("workers", "unmeasured")
def test_same_rows_and_faults(
    command: list[str], tmp_path: Path, install: Callable[[str, str, str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One grid on two workers: two good methods, and every way to go wrong."""
    install("faulty", "Faulty", FAULTY)
    monkeypatch.setattr(worker, "GRACE_S", 1.0)
    good = ["--methods", "linear,vpt", "--threads", 1, "--save", "curve"]
    assert vpbench(*command, tmp_path / "inline", *good).code == 0
    methods = "linear,vpt,faulty,faulty:sleep,faulty:hang,faulty:kill"
    words = [*command, tmp_path / "local", *good, "--methods", methods, "--workers", 2, "--timeout", "5s", "--retries", 0]
    words += ["--checkpoint-blocks"]
    done = vpbench(*words)
    assert done.code == 1, done.err
    store = Store(tmp_path / "local")
    table = rows(store.folder).set_index("method")
    assert table["status"].to_dict() == {
        "linear": "ok", "vpt": "ok", "faulty": "failed", "faulty:sleep": "timeout", "faulty:hang": "timeout",
        "faulty:kill": "failed",
    }  # fmt: skip

    columns = [*REPRODUCIBLE, "threads"]
    expected = rows(tmp_path / "inline").set_index("method")
    for run_id in expected["run_id"]:
        here, there = (Store(tmp_path / where).read_row(run_id) for where in ("inline", "local"))
        assert here is not None
        assert there is not None
        assert [here[name] for name in columns] == [there[name] for name in columns]
        assert here["acc1"] is not None
        assert (here["checkpoint_blocks"], there["checkpoint_blocks"]) == (False, True)
    curves = [
        (tmp_path / where / "_artefacts" / expected["run_id"]["vpt"] / "curve.csv").read_text() for where in ("inline", "local")
    ]
    assert curves[0] == curves[1]

    def error(method: str) -> list[str]:
        return str(table.loc[method, "error"]).strip().splitlines()

    assert error("faulty")[-1] == "ValueError: the moon is full"
    assert error("faulty:sleep")[-1] == "the run took longer than --timeout 5 s."
    assert "in phases" in "".join(error("faulty:sleep"))
    assert error("faulty:hang")[-1].endswith("The run took longer than --timeout 5 s.")
    assert any("in phases" in line for line in error("faulty:hang"))  # where it hung
    assert "SIGKILL" in error("faulty:kill")[-1]
    assert "about to kill" in error("faulty:kill")
    lost = table.loc[["faulty:hang", "faulty:kill"]]
    assert lost[["n_test", "classes", "wall_s", "torch", "device", "threads", "started_at", "spec"]].notna().all().all()
    assert (lost["threads"] == 1).all()
    assert lost["checkpoint_blocks"].all()

    logs = {path.stem for path in (store.folder / "_logs").iterdir()}
    assert logs == set(table.loc[["faulty", "faulty:sleep", "faulty:hang", "faulty:kill"], "run_id"])
    shown = vpbench("logs", table.loc["faulty", "run_id"][:8], "--results", store.folder)
    assert "about to raise" in shown.out
    assert shown.out.count("Traceback") == 1
    assert list(store.claims.folder.iterdir()) == []

    status = json.loads(vpbench("status", "--json", "--results", store.folder).out)
    assert status["rows"] == {"ok": 2, "failed": 2, "timeout": 2}
    assert (status["running"], status["left"]) == ([], 0)
    assert {"method": "vpt", "dataset": "grey", "ok": 1, "not_ok": 0} in status["table"]
    shown = vpbench("status", "--results", store.folder)
    assert "6 rows (2 ok, 2 failed, 2 timeout)" in " ".join(shown.out.split())
    assert "Nothing is running." in shown.out


@pytest.mark.sweep
@pytest.mark.usefixtures("workers", "unmeasured")
def test_ctrl_c_and_status_of_a_grid_at_work(command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = "worker.count_operations = lambda *_: __import__('time').sleep(1) or {}\n"
    (tmp_path / "start" / "sitecustomize.py").write_text(UNMEASURED + slow)
    results = tmp_path / "runs"
    process = start(*command, results, "--methods", "linear", "--seeds", 9, "--save", "none", "--workers", 1)
    deadline = time.monotonic() + 200
    while not (row_files(results) and Store(results).claims.held()):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    status = json.loads(vpbench("status", "--json", "--results", results).out)
    (run,) = status["running"]
    assert run["label"].startswith("linear on grey, seed")
    assert list(status["places"]) == [f"{run['host']}: cpu 0"]
    assert status["left"] in range(1, 9)
    assert status["seconds_left"] > 1
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=100)
    assert process.returncode == 130
    assert out == ""
    assert "Ctrl-C again stops at once" in err
    assert err.splitlines()[-1].startswith("vpbench: interrupted")
    table = rows(results)
    assert run["run_id"] in table["run_id"].tolist()  # it was under way, and finished
    assert set(table["status"]) == {"ok"}
    assert len(table) < 9
    assert set(traces(results)) == {path.name for path in row_files(results)}


@pytest.mark.sweep  # stopping and resuming one process is in test_interruption.py
@pytest.mark.usefixtures("workers", "unmeasured")
def test_workers_that_are_asked_to_stop(command: list[str], tmp_path: Path) -> None:
    """All of them with the command, which goes on when it is given again; one alone, whose run goes on in another."""
    long = ["--methods", "vpt", "--epochs", 20, "--save", "weights", "--threads", 1]
    assert vpbench(*command, tmp_path / "inline", *long).code == 0
    results = tmp_path / "local"
    store = Store(results)
    words = [*command, results, *long, "--workers", 1, "--retries", 0, "--checkpoint-every", "0.2s"]

    def written() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in results.glob("_checkpoints/*.pt")}

    def worker_that_got_on(before: dict[Path, int], process: subprocess.Popen[str] | None = None) -> int:
        deadline = time.monotonic() + 200
        while written() == before:
            assert process is None or process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        (about,) = store.claims.held().values()
        return int(about["pid"])

    process = start(*words)
    worker_that_got_on({}, process)
    process.terminate()
    out, err = process.communicate(timeout=100)
    assert process.returncode == 143, err
    assert out == ""
    assert err.splitlines()[-1].startswith("vpbench: stopped by SIGTERM")
    assert store.claims.held() == {}
    assert row_files(results) == []

    asking = threading.Thread(target=lambda before: os.kill(worker_that_got_on(before), signal.SIGTERM), args=(written(),))
    asking.start()
    done = vpbench(*words)  # in this process: it starts seconds earlier
    asking.join()
    assert done.code == 0, done.err
    err = done.err
    assert "its worker was asked to stop. It resumes in another one." in " ".join(err.split())
    assert err.count("resumes from its checkpoint") == 2
    (run_id,) = rows(tmp_path / "inline")["run_id"]
    here, there = (Store(folder).read_row(run_id) for folder in (results, tmp_path / "inline"))
    assert here is not None
    assert there is not None
    for name in REPRODUCIBLE:
        assert here[name] == there[name]
    places = [Store(folder).artefact_path(run_id, "weights.safetensors") for folder in (results, tmp_path / "inline")]
    assert places[0].read_bytes() == places[1].read_bytes()
    assert not list(results.rglob("*.pt"))


def test_how_long_the_rest_takes(results: Path) -> None:
    """By rows of such runs, the time taken by what runs left out; a run that takes longer than others is not about to end."""
    store, past = Store(results), rows(results).set_index("method").loc["vpt"]
    work = Work(past["device"], past["backbone"], "vpt", past["dataset"], int(past["epochs"] * past["n_train"]))
    training = min(past["wall_s"], work.images / past["train_images_per_s"])  # the rest does not depend on the images
    runs = {"a" * 32: asdict(work), "b" * 32: asdict(replace(work, images=3 * work.images))}

    def left() -> tuple[int, float]:
        status = json.loads(vpbench("status", "--json", "--results", results).out)
        return status["left"], status["seconds_left"]

    assert left() == (0, None)
    with store.claims.grid(runs):
        assert left() == (2, pytest.approx(2 * past["wall_s"] + 2 * training))
        since = (datetime.now(UTC) - timedelta(seconds=1000)).isoformat()
        with store.claims.claim("b" * 32, label="vpt on grey, seed 9", place="cpu 0", since=since):
            assert left() == (2, pytest.approx(past["wall_s"] + 100, abs=20))
            assert "vpt on grey, seed 9" in vpbench("status", "--results", results).out


def test_watching_ends_with_ctrl_c(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "sleep", lambda _: signal.raise_signal(signal.SIGINT))
    done = vpbench("status", "--watch", "--results", results)
    assert (done.code, done.err) == (0, "")
    assert "Nothing is running." in done.out


def test_dry_run_tells_the_expected_time(results: Path, command: list[str]) -> None:
    before = traces(results)
    done = vpbench(*command, results, "--methods", "linear,vpt", "--seeds", 2, "--dry-run")
    assert "Expected, by past rows: " in done.out
    assert " for 2 of them, one after the other. Nothing was run." in done.out
    planned = json.loads(vpbench(*command, results, "--methods", "linear", "--seeds", 2, "--dry-run", "--json").out)
    past = rows(results).query("method == 'linear'")["wall_s"].item()
    assert [run["expected_s"] for run in planned] == [None, pytest.approx(past)]
    assert traces(results) == before


@pytest.mark.usefixtures("unmeasured")
def test_runs_are_done_again_one_after_the_other(results: Path, command: list[str]) -> None:
    """With a limit, the same command takes the oldest row each time."""
    words = [*command, results, "--methods", "linear,vpt", "--rerun", "all"]
    assert [run["status"] for run in json.loads(vpbench(*words, "--dry-run", "--json").out)] == ["again", "again"]
    assert "2 runs, 0 stored, 0 missing, 2 to be repeated." in vpbench(*words, "--dry-run").out
    before = rows(results).set_index("method")["started_at"]
    for again in (1, 2):
        done = vpbench(*words, "--limit", 1)
        assert "2 rows, " in done.out
        assert "1 of them new" in done.out
        assert "Left over by --limit 1: 1 run; the same command does the next ones." in done.err
        assert (rows(results).set_index("method")["started_at"] > before).sum() == again


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        ("--executor lokal", ["'lokal'", "Did you mean 'local'?"]),
        ("--workers 0", ["--workers 0"]),
        ("--executor inline --workers 2", ["--workers", "--executor local"]),
        ("--per-gpu 2", ["--per-gpu", "--device cuda"]),
        ("--gpus 0,x", ["--gpus 0,x", "0,2"]),
        ("--gpus 99", ["there is no GPU 99"]),
        ("--timeout soon", ["--timeout soon", "30m"]),
        ("--timeout 0", ["--timeout 0"]),
        ("--checkpoint-every often", ["--checkpoint-every often", "30m"]),
        ("--retries -1 --workers 1", ["--retries -1"]),
        ("--rerun faild", ["'faild'", "Did you mean 'failed'?"]),
        ("--executor-option partition", ["partition", "NAME=VALUE"]),
        ("--executor local --executor-option wrokers=2", ["'wrokers'", "Did you mean 'workers'?"]),
    ],
)
def test_refusals(words: str, parts: list[str], command: list[str], tmp_path: Path) -> None:
    done = vpbench(*command, tmp_path / "runs", "--methods", "linear", *words.split())
    assert done.code == 2
    assert len(done.err.splitlines()) == 1
    for part in parts:
        assert part in done.err
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("words", "part"), [("status", "no results folder"), ("logs ffff", "no results folder"), ("status --watch --json", "exclude")]
)
def test_other_refusals(words: str, part: str, tmp_path: Path) -> None:
    done = vpbench(*words.split(), "--results", tmp_path / "none")
    assert done.code in (2, 5)
    assert part in done.err
    assert len(done.err.splitlines()) == 1
