"""What executors have in common that hand runs to other processes: a queue of jobs, and retries of runs that were lost."""

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

GRACE_S = 10.0  # a worker ends a run that takes too long by itself; one that has not after this time hangs
BACKOFF_S = 1.0  # before a run is retried, doubled each time
POLL_S = 0.5  # between two looks at runs that another command works on
TICK_S = 0.2  # to wait for messages


class Dispatcher:
    """One call of an executor. Calls the callback at the start and the end of each run once, however often it is retried."""

    def __init__(self, store: Store, callback: Callback) -> None:
        self.store, self.callback = store, callback
        self._started: set[str] = set()

    def started(self, job: Job) -> None:
        """Call the callback, the first time."""
        if job.run_id not in self._started:
            self._started.add(job.run_id)
            self.callback.started(job.planned)

    def finished(self, job: Job, row: dict[str, Any]) -> dict[str, Any]:
        """Call the callback; returns the row."""
        self.started(job)
        self.callback.finished(job.planned, row)
        return row

    def found(self, job: Job, row: dict[str, Any]) -> dict[str, Any]:
        """Call the callback for a row of another command; returns the row."""
        self._started.add(job.run_id)
        self.callback.found(job.planned, row)
        return row


@dataclass
class QueuedJob:
    """A job in the queue: its place, when it may start (of ``time.monotonic``), and how often it was lost."""

    job: Job
    order: float
    not_before: float = 0.0
    losses: int = 0


class QueueDispatcher(Dispatcher):
    """Assigns jobs to workers one by one; a job returns to the queue when its worker is lost or another command has the run.

    Args:
        executor: its ``draining`` says when nothing more is to be started.
        retries: how often a run is retried that was lost.
        jobs: in the order in which they are to start.
    """

    def __init__(self, executor: Executor, retries: int, jobs: Sequence[Job], store: Store, callback: Callback) -> None:
        super().__init__(store, callback)
        self.executor, self.retries = executor, retries
        self.queue = [QueuedJob(job, order) for order, job in enumerate(jobs)]
        self._noted_waiting = False

    def due(self) -> list[QueuedJob]:
        """Jobs that may start now, the first one first."""
        now = time.monotonic()
        return sorted((queued for queued in self.queue if queued.not_before <= now), key=lambda queued: queued.order)

    def busy(self) -> bool:
        """Whether some worker is doing a run."""
        raise NotImplementedError

    def postpone(self, queued: QueuedJob) -> None:
        """Another command has this run: look again later, after everything else."""
        self.queue.append(QueuedJob(queued.job, float("inf"), time.monotonic() + POLL_S, queued.losses))
        others = sum(queued.order == float("inf") for queued in self.queue)
        if not self._noted_waiting and not self.busy() and others == len(self.queue):
            self._noted_waiting = True
            self.callback.note(waits_for(others))

    def retry(self, queued: QueuedJob, what: str) -> bool:
        """Put a lost run back into the queue; False when it has no retries left. While draining it stays out of the queue, and
        the same command does it later."""
        if queued.losses >= self.retries:
            return False
        if not self.executor.draining:
            wait = BACKOFF_S * 2**queued.losses
            self.queue.append(QueuedJob(queued.job, queued.order, time.monotonic() + wait, queued.losses + 1))
            self.callback.note(f"{queued.job.label}: {what.splitlines()[-1]} It is retried.")
        return True

    def give_up(
        self, queued: QueuedJob, status: str, what: str, began: datetime | None, environment: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Write and return the row of a run that was lost and is not retried.

        Args:
            status: ``failed``, ``oom`` or ``timeout``.
            what: happened; its last line is the last of the error, followed by why the run is not retried.
            began: start of the last attempt, where it is known.
            environment: columns of the machine, as far as they are known.
        """
        job, given_up = queued.job, f"given up after {counted(queued.losses + 1, 'attempt')}."
        last = timed_out(job.timeout_s) if status == "timeout" else given_up
        row = store_failure(
            job, self.store, status=status, started_at=began or datetime.now(UTC), environment=environment,
            error=f"{what} {last[0].upper()}{last[1:]}",
        )  # fmt: skip
        return self.finished(job, row)
