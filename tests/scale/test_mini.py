"""The whole suite ``mini`` with all six methods: wherever it is run, the rows and the trained weights are the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tiny_grid import Heard, check_same, jobs_of

from vpbench.execution.executor import get_executor
from vpbench.execution.opened_data import OpenedData
from vpbench.planning.plan import Request

pytestmark = [pytest.mark.scale, pytest.mark.slow]
RUNS = 18


@pytest.fixture(scope="module")
def mini() -> Request:
    """The suite as it is, in one epoch instead of twelve."""
    return Request(suite="mini", epochs=1, device="cpu")


@pytest.fixture(scope="module")
def mini_inline(quick: None, mini: Request, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return done("inline", mini, tmp_path_factory.mktemp("mini") / "runs")


def done(executor: str, request: Request, folder: Path, **options: Any) -> Path:
    """The folder, with every run of the request done in it, and done once."""
    jobs, store = jobs_of(request, folder)
    heard = Heard()
    rows = list(get_executor(executor, **options)(jobs, store, heard, OpenedData()))
    assert len(jobs) == RUNS
    assert sorted(row["run_id"] for row in rows) == sorted(heard.finished_runs) == sorted(job.run_id for job in jobs)
    assert {row["status"] for row in rows} == {"ok"}, [row["error"] for row in rows]
    return folder


def test_local(mini: Request, mini_inline: Path, tmp_path: Path) -> None:
    check_same(done("local", mini, tmp_path / "runs", workers=2), mini_inline, RUNS)


def test_ray(mini: Request, mini_inline: Path, ray_cluster: Any, tmp_path: Path) -> None:
    """Two nodes with one CPU each."""
    check_same(done("ray", mini, tmp_path / "runs", address=ray_cluster.address), mini_inline, RUNS)


@pytest.mark.usefixtures("slurm_cluster")
def test_slurm(mini: Request, mini_inline: Path, tmp_path: Path) -> None:
    """Six tasks of three runs, two at a time."""
    check_same(done("slurm", mini, tmp_path / "runs", cpus=1, per_task=3), mini_inline, RUNS)
