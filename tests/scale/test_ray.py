"""The executor ``ray`` on a real cluster of two nodes, on this machine."""

from __future__ import annotations

import json
import signal
import socket
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from tiny_grid import Heard, check_same, jobs_of, search

from vpbench.core.errors import UsageError
from vpbench.execution.executor import get_executor
from vpbench.execution.opened_data import OpenedData
from vpbench.execution.run_progress import RunProgress
from vpbench.planning.plan import Request
from vpbench.store.store import Store

pytest.importorskip("ray", reason="Ray is not installed (pip install 'vpbench[ray]'); RAY IS NOT TESTED")
pytestmark = [pytest.mark.scale, pytest.mark.sweep]  # a cluster that starts and loses nodes takes minutes


def test_same_rows_when_a_node_is_lost(
    ray_cluster: Any, request_for_grid: Request, inline: Path, orders: Path, tmp_path: Path
) -> None:
    """Every run is done once, with the numbers of inline, and what was left beside its row travels back."""
    jobs, store = jobs_of(request_for_grid, tmp_path / "runs", count=4, checkpoint_blocks=True)
    orders.write_text("".join(f"hang {job.run_id}\n" for job in jobs))
    heard = Heard()

    def lose_a_node() -> None:
        while len(heard.started_runs) < 2:  # one on each node, since each has one CPU
            time.sleep(0.1)
        ray_cluster.remove_node(ray_cluster.lost, allow_graceful=False)
        orders.write_text("")

    losing = threading.Thread(target=lose_a_node, daemon=True)
    losing.start()
    rows = list(get_executor("ray", address=ray_cluster.address)(jobs, store, heard, OpenedData()))
    losing.join(10)
    assert sorted(row["run_id"] for row in rows) == sorted(job.run_id for job in jobs)
    assert sorted(heard.finished_runs) == sorted(heard.started_runs) == sorted(job.run_id for job in jobs)
    assert any("is retried" in note for note in heard.notes), heard.notes
    assert not store.claims.held()
    check_same(store.folder, inline, count=4)
    assert store.load()["checkpoint_blocks"].all()


@pytest.mark.sweep
def test_same_rows_of_a_segmentation(ray_cluster: Any, request_for_masks: Request, inline_masks: Path, tmp_path: Path) -> None:
    jobs, store = jobs_of(request_for_masks, tmp_path / "runs")
    list(get_executor("ray", address=ray_cluster.address)(jobs, store, Heard(), OpenedData()))
    check_same(store.folder, inline_masks, count=2)
    assert store.load()["metric"].tolist() == ["miou"] * 2


def test_a_run_that_kills_its_worker(ray_cluster: Any, request_for_grid: Request, orders: Path, tmp_path: Path) -> None:
    """It is retried as often as asked for, and then its row says so; the others are done."""
    jobs, store = jobs_of(request_for_grid, tmp_path / "runs", count=2)
    orders.write_text(f"kill {jobs[0].run_id}\n")
    heard = Heard()
    executor = get_executor("ray", address=ray_cluster.address, retries=1)
    rows = {row["run_id"]: row for row in executor(jobs, store, heard, OpenedData())}
    assert {run: row["status"] for run, row in rows.items()} == {jobs[0].run_id: "failed", jobs[1].run_id: "ok"}
    assert "2 attempts" in rows[jobs[0].run_id]["error"].splitlines()[-1]
    assert sum("is retried" in note for note in heard.notes) == 1
    assert set(store.load()["status"]) == {"failed", "ok"}


def test_nothing_answers(tmp_path: Path) -> None:
    """One line for a port where nobody listens, one where somebody else does, and no address at all."""
    with socket.socket() as closed, socket.socket() as other:
        closed.bind(("127.0.0.1", 0))
        other.bind(("127.0.0.1", 0))
        other.listen()
        threading.Thread(target=_answer, args=(other,), daemon=True).start()
        for place, text in (
            (f"127.0.0.1:{closed.getsockname()[1]}", "no Ray cluster answers"),
            (f"127.0.0.1:{other.getsockname()[1]}", "not Ray"),
            ("somewhere", "HOST:PORT"),
        ):
            with pytest.raises(UsageError, match=text) as caught:
                get_executor("ray", address=place)
            assert "\n" not in str(caught.value)
            assert place in str(caught.value)


def _answer(server: socket.socket) -> None:
    connection, _ = server.accept()
    with connection:
        connection.recv(100)
        connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")


def test_more_than_a_node_has(ray_cluster: Any, request_for_grid: Request, tmp_path: Path) -> None:
    """It would wait for ever."""
    jobs, store = jobs_of(request_for_grid, tmp_path / "runs", count=1)
    wide = [job.model_copy(update={"threads": 64}) for job in jobs]
    with pytest.raises(UsageError, match="64 CPU on one node"):
        list(get_executor("ray", address=ray_cluster.address)(wide, store, Heard(), OpenedData()))
    assert not Store(tmp_path / "runs").folder.exists() or not list((tmp_path / "runs").glob("*.parquet"))


TPE = ["--space", "adamw", "--trials", 3, "--batch", 3]


def test_a_search_that_is_stopped(ray_cluster: Any, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By Ctrl-C at its first row. Given again, it goes on: TPE asks for the same trials as inline, and the same one wins."""
    pytest.importorskip("optuna", reason="Optuna is not installed (pip install 'vpbench[search]')")
    words = [*TPE, "--executor", "ray", "--executor-option", f"address={ray_cluster.address}"]
    with monkeypatch.context() as patch:
        finished = RunProgress.finished

        def interrupt(*words: Any) -> None:
            patch.setattr(RunProgress, "finished", finished)
            finished(*words)
            signal.raise_signal(signal.SIGINT)

        patch.setattr(RunProgress, "finished", interrupt)
        stopped = search(images, tmp_path / "ray", *words)
    assert stopped.code == 130, stopped.err
    assert stopped.err.splitlines()[-1].startswith("vpbench: interrupted")
    assert len(Store(tmp_path / "ray").load()) in (1, 2, 3)  # one on each node may have been under way; the final run is left

    outcomes = [search(images, tmp_path / place, *more, "--json") for place, more in (("ray", words), ("inline", TPE))]
    assert [outcome.code for outcome in outcomes] == [0, 0], outcomes
    assert json.loads(outcomes[0].out) == json.loads(outcomes[1].out)
    check_same(tmp_path / "ray", tmp_path / "inline", count=4)
