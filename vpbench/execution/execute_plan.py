"""Running what is missing in a plan."""

from __future__ import annotations

from dataclasses import asdict

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from vpbench.backbones.weights import load_backbone
from vpbench.core.errors import StoppedError
from vpbench.execution.callbacks import Callback
from vpbench.execution.executor import STOPPED, Executor, make_executor, stopped_by_signals
from vpbench.execution.job import Job, row_version
from vpbench.execution.opened_data import OpenedData
from vpbench.planning.expected_time import Work, past_runs
from vpbench.planning.plan import Plan, PlannedRun
from vpbench.spec.run_options import RunOptions
from vpbench.store.store import Store, as_frame


def execute_plan(
    plan: Plan, store: Store, options: RunOptions, callback: Callback | None = None, executor: Executor | None = None
) -> pd.DataFrame:
    """Run what is missing in a plan; the rows of the whole plan.

    Args:
        plan: from :func:`vpbench.planning.plan.plan_runs`.
        store: receives the rows.
        options: how the runs are done, and how many of them.
        callback: is called as runs proceed.
        executor: does the runs; None: the one that ``options`` name.

    Raises:
        KeyboardInterrupt: when Ctrl-C has kept some runs from being started.
        StoppedError: when SIGTERM has kept some from being finished.
    """
    callback, executor = callback or Callback(), executor or make_executor(options)
    executor.check_device(plan.request.device)
    callback.planned(plan, options.limit)
    jobs, opened = make_jobs(plan, store, options), OpenedData()
    for job in jobs:
        opened.add(job, plan.data[job.spec.data.dataset])
    rows = executor(jobs, store, callback, opened)
    store.check_writable()
    if jobs:
        works = {job.run_id: Work.of(job) for job in jobs}
        works |= {f"{work.method} on {work.dataset}, later {place}": work for place, work in enumerate(plan.later)}
        callback.expecting(works, past_runs(store))
        with store.claims.grid({key: asdict(work) for key, work in works.items()}):  # first, so that 'vpbench status' shows it
            for backbone in {run.spec.backbone for run in plan.missing}:
                load_backbone(backbone)  # weights that do not fit are an error here, not after the images are decoded
            with stopped_by_signals(executor, callback):
                done = sum(1 for _ in rows)
        if done < len(jobs) and executor.draining:
            raise StoppedError(STOPPED) if executor.pausing else KeyboardInterrupt
    stored = store.read()
    for line in stored.left_out:
        callback.note(f"warning: {line}")
    frame = as_frame(stored.table)
    return frame[frame["run_id"].isin({run.spec.run_id for run in plan.runs})].reset_index(drop=True)


def make_jobs(plan: Plan, store: Store, options: RunOptions) -> list[Job]:
    """The missing runs of a plan, at most ``options.limit`` of them, as what executors take: first those that have no row, in
    the plan's order, then those to be repeated, the oldest row first."""
    rows = store.read(["run_id", "started_at"]).table
    rows = rows.filter(pc.is_in(rows["run_id"], pa.array([run.spec.run_id for run in plan.missing], pa.string())))
    stored = {row["run_id"]: row for row in rows.to_pylist()}

    def age(run: PlannedRun) -> float:
        row = stored.get(run.spec.run_id)
        return row["started_at"].timestamp() if row and row["started_at"] else 0.0

    runs = sorted(plan.missing, key=age)[: options.limit]
    return [Job.of(run, plan, options.of_a_job, row_version(stored.get(run.spec.run_id)), store.folder) for run in runs]
