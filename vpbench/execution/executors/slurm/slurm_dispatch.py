"""One call of the executor ``slurm``: the runs, and the Slurm jobs that they are in."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any

from submitit.core.utils import UncompletedJobError

from vpbench.core import errors
from vpbench.core.errors import UsageError, VpbenchError
from vpbench.core.names import counted
from vpbench.execution.callbacks import Callback
from vpbench.execution.dispatch import Dispatcher
from vpbench.execution.executor import Executor
from vpbench.execution.executors.slurm.collect import lost
from vpbench.execution.executors.slurm.commands import cancel, last_state, queue
from vpbench.execution.executors.slurm.submission import Submission, submissions
from vpbench.execution.job import Job, row_since
from vpbench.store.store import Store

POLL_S = 5.0  # between two questions to the controller, which serves all users of a cluster
GRACE_S = 5.0  # for a row to appear in a shared folder after its task has ended

# A task that was lost in one of these states is submitted again; a cancelled one stays cancelled.
RETRIED = ("FAILED", "NODE_FAIL", "BOOT_FAIL", "UNKNOWN")


class SlurmDispatcher(Dispatcher):
    """Submits runs once, and polls the queue until each has a row.

    Args:
        executor: its ``draining`` says when what waits in the queue is to be cancelled.
        submit: puts runs into the queue; all of them, or none.
        retries: how often a run is submitted again whose task died.
    """

    def __init__(
        self, executor: Executor, submit: Callable[[Sequence[Job], Store], list[Submission]], retries: int, store: Store,
        callback: Callback,
    ) -> None:  # fmt: skip
        super().__init__(store, callback)
        self._executor, self._submit, self._retries = executor, submit, retries
        self._waiting: dict[str, Job] = {}
        self._tries = Counter[str]()
        self._gone: dict[str, float] = {}
        self._theirs: list[Submission] = []
        self._ours: list[Submission] = []
        self._stopped = self._noted_silence = False

    def run(self, jobs: Sequence[Job], detach: bool) -> Iterator[dict[str, Any]]:
        """Rows as they come; none with ``detach``, which only submits."""
        self._waiting = {job.run_id: job for job in jobs}
        self._theirs = self._alive(submissions(self.store))
        queued = {job.run_id for submission in self._theirs for group in submission.tasks for job in group}
        fresh = [job for job in jobs if job.run_id not in queued]
        if len(fresh) < len(jobs):
            self.callback.note(f"In Slurm's queue already: {counted(len(jobs) - len(fresh), 'run')} of {len(jobs)}.")
        try:
            if fresh:
                self._ours = self._submit(fresh, self.store)
                self.callback.note(f"{counted(len(fresh), 'run')} submitted as Slurm job {', '.join(_numbers(self._ours))}.")
            if detach:
                self.callback.note(f"Collect later: vpbench status --collect --results {self.store.folder}")
                self._ours = []
                return
            while self._waiting:
                yield from self._look()
                if self._executor.draining and not self._stopped:
                    self._stopped = True
                    cancel(_numbers(self._ours), "--state=PENDING")
                if self._waiting:
                    time.sleep(POLL_S)
            for submission in [*self._ours, *self._theirs]:
                if submission.is_complete(self.store):
                    submission.forget(self.store)
        except BaseException:
            cancel(_numbers(self._ours))
            for submission in self._ours:
                submission.forget(self.store)
            raise

    def _alive(self, found: list[Submission]) -> list[Submission]:
        """Those with a task in the queue."""
        alive = {name.partition("_")[0] for name in queue(_numbers(found))}
        return [submission for submission in found if submission.slurm_job in alive]

    def _look(self) -> Iterator[dict[str, Any]]:
        """One look at the queue: rows that are there, and runs whose task has ended without one."""
        try:
            states = queue(_numbers([*self._theirs, *self._ours]))
        except UsageError as error:  # a controller that is restarted comes back, and the tasks run meanwhile
            if not self._noted_silence:
                self._noted_silence = True
                self.callback.note(f"{error} Still waiting.")
            return
        for submission in [*self._theirs, *self._ours]:
            for index, group in enumerate(submission.tasks):
                state = states.get(submission.name(index))
                for job in [job for job in group if job.run_id in self._waiting]:
                    row = self._row(submission, index, job, state)
                    if row is not None:
                        del self._waiting[job.run_id]
                        yield self.found(job, row) if submission in self._theirs else self.finished(job, row)

    def _row(self, submission: Submission, index: int, job: Job, state: str | None) -> dict[str, Any] | None:
        """A run's row, if there is one by now; ``state`` is that of its task in the queue."""
        if state in ("PENDING", "REQUEUED"):
            if self._stopped:  # of another command's Slurm job, which runs without us
                del self._waiting[job.run_id]
            return None
        row = row_since(job, self.store)
        if row is None and state is None:
            return self._ended(submission, index, job)
        if row is None and state == "RUNNING" and (self.store.claims.folder / f"{job.run_id}.json").exists():
            self.started(job)
        return row

    def _ended(self, submission: Submission, index: int, job: Job) -> dict[str, Any] | None:
        """A run without a row whose task is not in the queue any more; the row, when it is given up."""
        if submission is not self._latest(job):
            return None  # it was submitted again
        name = submission.name(index)
        since = self._gone.setdefault(f"{name} {job.run_id}", time.monotonic())
        if time.monotonic() - since < GRACE_S:
            return None
        self._raise_error(submission, index)
        if self._stopped:
            del self._waiting[job.run_id]
            return None
        state = last_state(name)
        if state in RETRIED and self._tries[job.run_id] < self._retries:
            self._tries[job.run_id] += 1
            self.callback.note(f"{job.label}: Slurm job {name} ended as {state}. It is retried.")
            self._ours += self._submit([job], self.store)
            return None
        return lost(submission, index, job, state, self.store)

    def _latest(self, job: Job) -> Submission:
        """The last Slurm job that a run is in."""
        return [
            submission
            for submission in [*self._theirs, *self._ours]
            if any(job.run_id == other.run_id for group in submission.tasks for other in group)
        ][-1]

    def _raise_error(self, submission: Submission, index: int) -> None:
        """An error that concerns all runs ends the call."""
        found = submission.handle(index, self.store)
        if not found.paths.result_pickle.exists():
            return
        with suppress(UncompletedJobError):  # a crash, whose traceback is in the task's output
            result = found.result()
            if "error" in result:
                raise getattr(errors, result["error"], VpbenchError)(result["text"])


def _numbers(found: Sequence[Submission]) -> list[str]:
    return [submission.slurm_job for submission in found]
