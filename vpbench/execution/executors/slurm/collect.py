"""What became of runs that were submitted."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from vpbench.core.errors import UsageError
from vpbench.execution.execute import store_failure
from vpbench.execution.executors.slurm.commands import last_state, queue
from vpbench.execution.executors.slurm.submission import Submission, submissions
from vpbench.execution.job import Job, row_since
from vpbench.execution.run_log import last_lines
from vpbench.store.store import Store

STATUSES = {"TIMEOUT": "timeout", "DEADLINE": "timeout", "OUT_OF_MEMORY": "oom"}


@dataclass
class Collected:
    """What became of the runs that were submitted from a results folder, by number.

    Attributes:
        finished: have a row, whatever its status.
        running, pending: are in a task that runs or waits.
        lost: were in a task that ended without their row; they have one now, with Slurm's state.
    """

    finished: int = 0
    running: int = 0
    pending: int = 0
    lost: list[str] = field(default_factory=list)


def collect(store: Store) -> Collected:
    """Check submitted runs: those that were lost get a row with Slurm's state, and notes on complete jobs are removed.

    Rows of runs that went well are in the folder already; tasks write them there themselves.

    Raises:
        UsageError: when there is no Slurm here, or its controller does not answer.
    """
    found, pending = Collected(), submissions(store)
    if not pending:
        return found
    if not shutil.which("squeue"):
        raise UsageError(f"{store.folder} has runs in a Slurm queue, and there is no squeue here; ask on the login node.")
    states = queue(submission.slurm_job for submission in pending)
    for submission in pending:
        for index, group in enumerate(submission.tasks):
            state = states.get(submission.name(index))
            for job in group:
                if row_since(job, store) is not None:
                    found.finished += 1
                elif state is None:
                    lost(submission, index, job, last_state(submission.name(index)), store)
                    found.lost.append(job.run_id)
                elif state in ("PENDING", "REQUEUED"):
                    found.pending += 1
                else:
                    found.running += 1
        if submission.is_complete(store):
            submission.forget(store)
    return found


def lost(submission: Submission, index: int, job: Job, state: str, store: Store) -> dict[str, Any]:
    """Write the row of a run whose task ended, in this state of Slurm, without one."""
    output = submission.handle(index, store).paths.stdout
    printed = last_lines(output)
    how = "before the run had a row" if printed else f"and left no output in {output}"
    return store_failure(
        job, store, status=STATUSES.get(state, "failed"), started_at=datetime.now(UTC),
        error="\n".join([*printed, f"Slurm job {submission.name(index)} ended as {state} {how}."]),
        environment={"device": job.device},
    )  # fmt: skip
