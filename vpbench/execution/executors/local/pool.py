"""One call of the executor ``local``: its workers, and the jobs that are assigned to them."""

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
from vpbench.execution.dispatch import TICK_S, QueueDispatcher, QueuedJob
from vpbench.execution.executor import Executor
from vpbench.execution.executors.local.slots import Slot
from vpbench.execution.executors.local.worker import Messages, Worker
from vpbench.execution.job import Job, row_since
from vpbench.execution.run_log import last_lines
from vpbench.store.store import Store
from vpbench.training.fit import Epoch

STARTS = 3  # in a row that may fail in one slot


class LocalDispatcher(QueueDispatcher):
    """A worker in each of ``slots``; the other arguments are those of :class:`QueueDispatcher`."""

    def __init__(
        self, executor: Executor, slots: Sequence[Slot], retries: int, jobs: Sequence[Job], store: Store, callback: Callback
    ) -> None:
        super().__init__(executor, retries, jobs, store, callback)
        self._slots = slots
        self._workers: list[Worker] = []
        self._messages: Messages = queue.SimpleQueue()
        self._failed_starts = Counter[str]()
        self._pause_sent = False

    def run(self) -> Iterator[dict[str, Any]]:
        try:
            while self.busy() or (self.queue and not self.executor.draining):
                self._fill()
                for worker in self._workers:
                    worker.kill_if_overdue()
                self._pause()
                with suppress(queue.Empty):
                    worker, message = self._messages.get(timeout=TICK_S)
                    row = self._dead(worker) if message is None else self._received(worker, message)
                    if row is not None:
                        yield row
            for worker in self._workers:
                worker.dismiss()
        finally:
            for worker in self._workers:
                worker.kill()

    def busy(self) -> bool:
        return any(worker.current for worker in self._workers)

    def _fill(self) -> None:
        """Workers in empty slots while there is work for them, and work for idle workers."""
        if self.executor.draining:
            return
        idle = sum(worker.current is None for worker in self._workers)
        taken = [worker.slot for worker in self._workers]
        for slot in [slot for slot in self._slots if slot not in taken][: max(0, len(self.queue) - idle)]:
            self._workers.append(Worker(slot, self.store.folder, self._messages))
        free = (worker for worker in self._workers if worker.ready and worker.current is None)
        for worker, queued in zip(free, self.due()):
            self.queue.remove(queued)
            worker.assign(queued)

    def _pause(self) -> None:
        """Once: ask all workers to pause their runs."""
        if self.executor.pausing and not self._pause_sent:
            self._pause_sent = True
            for worker in self._workers:
                worker.pause()

    def _received(self, worker: Worker, message: dict[str, Any]) -> dict[str, Any] | None:
        """A worker's message; the row, when it has finished one."""
        kind, queued = message.pop("kind"), worker.current
        if kind == "ready":
            worker.ready = True
            del self._failed_starts[worker.slot.name]
        elif kind == "environment":
            worker.environment = message["columns"]
        if queued is None:
            return None
        job = queued.job
        if kind == "preparing":
            worker.extend()
            self.callback.preparing(message["dataset"], message["done"], message["total"])
        elif kind == "started":
            worker.extend()
            self.started(job)
        elif kind == "epoch":
            self.callback.epoch(job.planned, Epoch(**message["epoch"]))
        elif kind == "note":
            self.callback.note(message["text"])
        elif kind == "claimed":
            worker.current = None
            self.postpone(queued)
        elif kind == "paused":
            self._paused(worker, queued)
        elif kind in ("finished", "found"):
            worker.current = None
            row = {**message["row"], "started_at": datetime.fromisoformat(message["row"]["started_at"])}
            return self.finished(job, row) if kind == "finished" else self.found(job, row)
        elif kind == "crashed":
            worker.current = None
            return self._lost(queued, worker, "failed", message["text"].rstrip())
        elif kind == "error":
            raise getattr(errors, message["type"], VpbenchError)(message["text"])
        return None

    def _paused(self, worker: Worker, queued: QueuedJob) -> None:
        """A worker has paused its run, and ends."""
        worker.current = None
        self._remove(worker)
        if not self.executor.pausing:  # something else asked this worker to end, which is no retry of the run
            self.queue.append(queued)
            self.callback.note(f"{queued.job.label}: its worker was asked to stop. It resumes in another one.")

    def _dead(self, worker: Worker) -> dict[str, Any] | None:
        """A worker's output has ended."""
        if worker not in self._workers:
            return None
        how, printed, queued = worker.exit_description(), worker.last_line(), worker.current
        self._remove(worker)
        if queued is None:
            if not worker.ready:
                self._count_failed_start(worker.slot, printed)
            return None
        if worker.timed_out:
            return self._lost(queued, worker, "timeout", "the worker did not react and was killed.")
        return self._lost(queued, worker, "failed", f"the worker process {how}.")

    def _remove(self, worker: Worker) -> None:
        self._workers.remove(worker)
        worker.kill()

    def _count_failed_start(self, slot: Slot, printed: str) -> None:
        self._failed_starts[slot.name] += 1
        if (count := self._failed_starts[slot.name]) >= STARTS:
            raise VpbenchError(f"a worker process ({slot.name}) could not start, {count} times: {printed}")
        time.sleep(TICK_S)

    def _lost(self, queued: QueuedJob, worker: Worker, status: str, what: str) -> dict[str, Any] | None:
        """A run that its worker did not finish: retry it, or write its row here."""
        job, store = queued.job, self.store
        if status == "failed" and (self.executor.pausing or self.retry(queued, what)):  # pausing: it ended together with us
            return None
        with store.claims.claim(job.run_id, label=job.label) as ours:
            if not ours:
                self.postpone(queued)
                return None
            if (row := row_since(job, store)) is not None:  # the worker died between its row and its last message
                return self.finished(job, row)
            printed = last_lines(store.log_path(job.run_id))
            threads = job.threads or worker.slot.threads
            return self.give_up(
                queued, status, "\n".join([*printed, what]), worker.began, {**worker.environment, "threads": threads}
            )
