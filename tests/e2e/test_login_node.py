"""A machine that only gives out work: runs are planned for GPUs that it does not have, and collected when they have ended."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from command import traces, vpbench

from vpbench.execution.execute_plan import make_jobs
from vpbench.planning.plan import plan_runs
from vpbench.spec.request import Request
from vpbench.spec.run_options import RunOptions
from vpbench.store.store import Store


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_of_another_machine_is_planned_for(images: Path, tmp_path: Path) -> None:
    request = Request(methods=["linear"], data=str(images), image_size=40, epochs=1, device="cuda")
    store, options = Store(tmp_path / "runs"), RunOptions(save=())
    (job,) = make_jobs(plan_runs(request, options, store), store, options)
    assert job.device == "cuda"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_ray_takes_a_gpu_at_its_word(results: Path, command: list[str]) -> None:
    pytest.importorskip("ray", reason="ray is not installed (pip install 'vpbench[ray]')")
    before = traces(results)
    done = vpbench(*command, results, "--methods", "linear", "--executor", "ray", "--device", "cuda", "--dry-run")
    assert done.code == 0, done.err
    assert traces(results) == before


def test_nothing_to_collect(results: Path) -> None:
    pytest.importorskip("submitit", reason="submitit is not installed (pip install 'vpbench[slurm]')")
    done = vpbench("status", "--collect", "--results", results)
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("Slurm: 0 finished, 0 running, 0 pending, 0 lost.\n")
    found = json.loads(vpbench("status", "--collect", "--json", "--results", results).out)["collected"]
    assert found == {"finished": 0, "running": 0, "pending": 0, "lost": []}


def test_collecting_where_there_is_no_slurm(results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("submitit", reason="submitit is not installed (pip install 'vpbench[slurm]')")
    (results / "_slurm").mkdir()
    (results / "_slurm" / "7.json").write_text('{"array": false, "tasks": [[]]}')
    monkeypatch.setenv("PATH", str(tmp_path))
    done = vpbench("status", "--collect", "--results", results)
    assert done.code == 2
    assert done.err == f"vpbench: {results} has runs in a Slurm queue, and there is no squeue here; ask on the login node.\n"
