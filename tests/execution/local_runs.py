"""Plans and jobs over a few images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vpbench.execution import run_job as job_runner
from vpbench.execution.callbacks import Callback
from vpbench.execution.execute_plan import make_jobs
from vpbench.execution.job import Job
from vpbench.execution.opened_data import OpenedData
from vpbench.planning.plan import Plan, PlannedRun, plan_runs
from vpbench.spec.request import Request
from vpbench.spec.run_options import RunOptions
from vpbench.store.store import Store

BARE = RunOptions(save=())  # nothing beside the rows


def planned(images: Path, store: Store, seeds: int = 1, methods: tuple[str, ...] = ("linear",)) -> Plan:
    request = Request(
        methods=methods, data=str(images), image_size=32, epochs=1, seeds=seeds, device="cpu", precision="fp32"
    )  # fmt: skip
    return plan_runs(request, BARE, store)


def jobs_of(images: Path, store: Store, **more: Any) -> list[Job]:
    return make_jobs(planned(images, store, **more), store, BARE)


def run_job(job: Job, store: Store) -> dict[str, Any]:
    return job_runner.run_job(job, store, OpenedData(), Callback())


class Notes(Callback):
    def __init__(self) -> None:
        self.notes: list[str] = []
        self.finished_runs: list[str] = []
        self.found_runs: list[str] = []

    def found(self, run: PlannedRun, row: dict[str, Any]) -> None:
        self.found_runs.append(run.spec.run_id)

    def note(self, text: str) -> None:
        self.notes.append(text)

    def finished(self, run: PlannedRun, row: dict[str, Any]) -> None:
        self.finished_runs.append(run.spec.run_id)
