"""One call of the executor ``local``: its workers, and the runs that they are given."""

from __future__ import annotations

import queue
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any

from vpbench.core import errors
from vpbench.core.errors import VpbenchError
from vpbench.execution.callbacks import Callback
from vpbench.execution.dispatch import TICK_S, Task, TaskGrid
from vpbench.execution.executor import Executor
from vpbench.execution.executors.local.slots import Slot
from vpbench.execution.executors.local.worker import Messages, Worker
from vpbench.execution.job import Job, row_since
from vpbench.execution.run_log import last_lines
from vpbench.store.store import Store
from vpbench.training.fit import Epoch

STARTS = 3  # in a row that may fail in one slot


class LocalGrid(TaskGrid):
    """A grid with a worker in each of ``slots``; the other arguments are those of :class:`TaskGrid`."""

    def __init__(
        self, executor: Executor, slots: Sequence[Slot], retries: int, jobs: Sequence[Job], store: Store, callback: Callback
    ) -> None:
        super().__init__(executor, retries, jobs, store, callback)
        self._slots = slots
        self._workers: list[Worker] = []
        self._messages: Messages = queue.SimpleQueue()
        self._failed_starts = Counter[str]()
        self._told_pause = False

    def run(self) -> Iterator[dict[str, Any]]:
        try:
            while self.busy() or (self.tasks and not self.executor.draining):
                self._fill()
                for worker in self._workers:
                    worker.kill_if_overdue()
                self._pause()
                with suppress(queue.Empty):
                    worker, message = self._messages.get(timeout=TICK_S)
                    row = self._dead(worker) if message is None else self._heard(worker, message)
                    if row is not None:
                        yield row
            for worker in self._workers:
                worker.dismiss()
        finally:
            for worker in self._workers:
                worker.kill()

    def busy(self) -> bool:
        return any(worker.task for worker in self._workers)

    def _fill(self) -> None:
        """Workers in empty slots while there is work for them, and work for idle workers."""
        if self.executor.draining:
            return
        idle = sum(worker.task is None for worker in self._workers)
        taken = [worker.slot for worker in self._workers]
        for slot in [slot for slot in self._slots if slot not in taken][: max(0, len(self.tasks) - idle)]:
            self._workers.append(Worker(slot, self.store.folder, self._messages))
        free = (worker for worker in self._workers if worker.ready and worker.task is None)
        for worker, task in zip(free, self.due()):
            self.tasks.remove(task)
            worker.give(task)

    def _pause(self) -> None:
        """Once: ask all workers to leave their runs; they say so."""
        if self.executor.pausing and not self._told_pause:
            self._told_pause = True
            for worker in self._workers:
                worker.ask_to_leave()

    def _heard(self, worker: Worker, message: dict[str, Any]) -> dict[str, Any] | None:
        """A worker's message; the row, when it has finished one."""
        kind, task = message.pop("kind"), worker.task
        if kind == "ready":
            worker.ready = True
            del self._failed_starts[worker.slot.name]
        elif kind == "environment":
            worker.environment = message["columns"]
        if task is None:
            return None
        job = task.job
        if kind == "preparing":
            worker.extend()
            self.callback.preparing(message["dataset"], message["done"], message["total"])
        elif kind == "started":
            worker.extend()
            self.tell_started(job)
        elif kind == "epoch":
            self.callback.epoch(job.planned, Epoch(**message["epoch"]))
        elif kind == "note":
            self.callback.note(message["text"])
        elif kind == "elsewhere":
            worker.task = None
            self.postpone(task)
        elif kind == "paused":
            self._paused(worker, task)
        elif kind == "finished":
            worker.task = None
            row = message["row"]
            return self.finished(job, {**row, "started_at": datetime.fromisoformat(row["started_at"])})
        elif kind == "crashed":
            worker.task = None
            return self._lost(task, worker, "failed", message["text"].rstrip())
        elif kind == "error":
            raise getattr(errors, message["type"], VpbenchError)(message["text"])
        return None

    def _paused(self, worker: Worker, task: Task) -> None:
        """A worker has left its run."""
        worker.task = None
        self._remove(worker)
        if not self.executor.pausing:  # somebody else asked this worker to end, which the run is not to blame for
            self.tasks.append(task)
            self.callback.note(f"{task.job.label}: its worker was asked to stop. It goes on in another one.")

    def _dead(self, worker: Worker) -> dict[str, Any] | None:
        """A worker's output has ended."""
        if worker not in self._workers:
            return None
        how, said, task = worker.how_it_ended(), worker.last_word(), worker.task
        self._remove(worker)
        if task is None:
            if not worker.ready:
                self._count_failed_start(worker.slot, said)
            return None
        if worker.timed_out:
            return self._lost(task, worker, "timeout", "the worker did not react and was killed.")
        return self._lost(task, worker, "failed", f"the worker process {how}.")

    def _remove(self, worker: Worker) -> None:
        self._workers.remove(worker)
        worker.kill()

    def _count_failed_start(self, slot: Slot, said: str) -> None:
        self._failed_starts[slot.name] += 1
        if (count := self._failed_starts[slot.name]) >= STARTS:
            raise VpbenchError(f"a worker process ({slot.name}) could not start, {count} times: {said}")
        time.sleep(TICK_S)

    def _lost(self, task: Task, worker: Worker, status: str, what: str) -> dict[str, Any] | None:
        """A run that its worker did not finish: repeat it, or write its row here."""
        job, store = task.job, self.store
        if status == "failed" and (self.executor.pausing or self.repeats(task, what)):  # pausing: it ended together with us
            return None
        with store.claims.claim(job.run_id, label=job.label) as ours:
            if not ours:
                self.postpone(task)
                return None
            if (row := row_since(job, store)) is not None:  # the worker died between its row and its last word
                return self.finished(job, row)
            printed = last_lines(store.log_path(job.run_id))
            threads = job.threads or worker.slot.threads
            return self.given_up(
                task, status, "\n".join([*printed, what]), worker.began, {**worker.environment, "threads": threads}
            )
