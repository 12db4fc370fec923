"""What executors have in common that hand runs to other processes: what is still to do, and what comes of a run that is lost."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from vpbench.core.names import counted
from vpbench.execution.callbacks import Callback
from vpbench.execution.execute import store_failure, timed_out
from vpbench.execution.executor import Executor, waits_for
from vpbench.execution.job import Job
from vpbench.store.store import Store

GRACE_S = 10.0  # a worker ends a run that is too long by itself; one that has not after this time hangs
BACKOFF_S = 1.0  # before a run is repeated, doubled each time
POLL_S = 0.5  # between two looks at runs that another command works on
TICK_S = 0.2  # to wait for news


class Grid:
    """One call of an executor. Tells the callback of the start and the end of each run once, however often it is begun."""

    def __init__(self, store: Store, callback: Callback) -> None:
        self.store, self.callback = store, callback
        self._started: set[str] = set()

    def tell_started(self, job: Job) -> None:
        if job.run_id not in self._started:
            self._started.add(job.run_id)
            self.callback.started(job.planned)

    def finished(self, job: Job, row: dict[str, Any]) -> dict[str, Any]:
        """Tell of a run's end; its row."""
        self.tell_started(job)
        self.callback.finished(job.planned, row)
        return row


@dataclass
class Task:
    """A job on its way: its place in the queue, when it may start, and how often it was lost."""

    job: Job
    order: float
    not_before: float = 0.0
    losses: int = 0


class TaskGrid(Grid):
    """A grid whose runs are given to workers one by one, and come back when a worker is lost or another command has the run.

    Args:
        executor: says when nothing more is to be started.
        retries: how often a run is repeated that was lost.
        jobs: in the order in which they are to start.
    """

    def __init__(self, executor: Executor, retries: int, jobs: Sequence[Job], store: Store, callback: Callback) -> None:
        super().__init__(store, callback)
        self.executor, self.retries = executor, retries
        self.tasks = [Task(job, order) for order, job in enumerate(jobs)]
        self._told_waiting = False

    def due(self) -> list[Task]:
        """Tasks that may start now, the first one first."""
        now = time.monotonic()
        return sorted((task for task in self.tasks if task.not_before <= now), key=lambda task: task.order)

    def busy(self) -> bool:
        """Whether some worker is doing a run."""
        raise NotImplementedError

    def postpone(self, task: Task) -> None:
        """Another command has this run: look again later, after everything else."""
        self.tasks.append(Task(task.job, float("inf"), time.monotonic() + POLL_S, task.losses))
        others = sum(task.order == float("inf") for task in self.tasks)
        if not self._told_waiting and not self.busy() and others == len(self.tasks):
            self._told_waiting = True
            self.callback.note(waits_for(others))

    def repeats(self, task: Task, what: str) -> bool:
        """Whether a lost run is done again: now, or by the same command later when this one is to start nothing more."""
        if task.losses >= self.retries:
            return False
        if not self.executor.draining:
            wait = BACKOFF_S * 2**task.losses
            self.tasks.append(Task(task.job, task.order, time.monotonic() + wait, task.losses + 1))
            self.callback.note(f"{task.job.label}: {what.splitlines()[-1]} It is repeated.")
        return True

    def given_up(
        self, task: Task, status: str, what: str, began: datetime | None, environment: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Write and return the row of a run that came to none.

        Args:
            status: ``failed``, ``oom`` or ``timeout``.
            what: happened; its last line is the last of the error, and says in the end why the run is not repeated.
            began: start of the last attempt, where it is known.
            environment: columns of the machine, as far as they are known.
        """
        job, given_up = task.job, f"given up after {counted(task.losses + 1, 'attempt')}."
        last = timed_out(job.timeout_s) if status == "timeout" else given_up
        row = store_failure(
            job.planned, job.sizes, self.store, status=status, started_at=began or datetime.now(UTC),
            error=f"{what} {last[0].upper()}{last[1:]}",
            environment={**environment, "checkpoint_blocks": job.checkpoint_blocks},
        )  # fmt: skip
        return self.finished(job, row)
