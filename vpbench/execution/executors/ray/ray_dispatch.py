"""One call of the executor ``ray``: submitting tasks, and collecting their rows."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import ray
from ray import exceptions as lost
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from vpbench.core import errors
from vpbench.core.checksums import DamagedError
from vpbench.core.errors import StoreError, VpbenchError
from vpbench.core.version import __version__
from vpbench.execution.callbacks import Callback
from vpbench.execution.dispatch import GRACE_S, TICK_S, QueueDispatcher, QueuedJob
from vpbench.execution.executor import Executor, about_claim
from vpbench.execution.executors.ray.board import Board
from vpbench.execution.executors.ray.ray_task import task_function
from vpbench.execution.job import Job, row_since
from vpbench.store.store import Store

AHEAD = 2  # tasks submitted beyond the free places, so that no place is idle

# How Ray reports a task that was lost through no error of its own.
LOSSES = (
    lost.WorkerCrashedError, lost.NodeDiedError, lost.ObjectLostError, lost.OutOfMemoryError, lost.LocalRayletDiedError,
)  # fmt: skip


def places(needs: dict[str, float]) -> int:
    """How many runs, of which each needs so much, the nodes that are up have room for."""
    return sum(
        min(int(node["Resources"].get(name, 0) / amount + 1e-6) for name, amount in needs.items())
        for node in ray.nodes()
        if node["Alive"]
    )


@dataclass
class _Running:
    """A submitted task, with the run's claim; ``began`` and ``environment`` are known once a worker has begun it."""

    queued: QueuedJob
    claim: AbstractContextManager[bool]
    began: datetime | None = None
    deadline: float = float("inf")
    overdue: bool = False
    environment: dict[str, Any] = field(default_factory=dict)

    def extend(self) -> None:
        """The run's time begins now: decoding images and starting are not part of it."""
        self.began, limit = datetime.now(UTC), self.queued.job.timeout_s
        self.deadline = time.monotonic() + limit + GRACE_S if limit else float("inf")


class RayDispatcher(QueueDispatcher):
    """Runs on the cluster that this process is connected to.

    Args:
        needs: what one run takes of a node, in Ray's terms.
        workers: runs at a time; None for as many as there is room for.
        others: see :class:`QueueDispatcher`.
    """

    def __init__(
        self, executor: Executor, needs: dict[str, float], workers: int | None, retries: int, jobs: Sequence[Job], store: Store,
        callback: Callback,
    ) -> None:  # fmt: skip
        super().__init__(executor, retries, jobs, store, callback)
        self._needs, self._workers = needs, workers
        self._running: dict[Any, _Running] = {}
        self._stopped = self._pause_sent = False
        # On our own node and no other one: if that is lost, so is this process. With soft=True Ray takes any node.
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        lasting = {"max_restarts": -1, "max_task_retries": -1}
        self._board = ray.remote(num_cpus=0)(Board).options(scheduling_strategy=here, **lasting).remote()
        # Ray's own retries are off, so that ours are counted, noted, and end in a row.
        self._do_job = ray.remote(max_retries=0, num_cpus=needs["CPU"], num_gpus=needs.get("GPU", 0))(task_function())

    def run(self) -> Iterator[dict[str, Any]]:
        try:
            while self._running or (self.queue and not self.executor.draining):
                yield from self._submit()
                self._stop()
                ended = self._wait()
                self._receive()
                self._cancel_overdue()
                for reference in ended:
                    row = self._ended(reference)
                    if row is not None:
                        yield row
        finally:
            for reference, running in self._running.items():
                ray.cancel(reference, force=True)
                running.claim.__exit__(None, None, None)
            ray.kill(self._board)

    def busy(self) -> bool:
        return bool(self._running)

    def _submit(self) -> Iterator[dict[str, Any]]:
        """Give Ray as many tasks as it has room for; rows that another command has written meanwhile are finished."""
        if not self.queue or self.executor.draining:
            return
        room = places(self._needs) + AHEAD
        room = min(room, self._workers or room) - len(self._running)
        for queued in self.due()[: max(0, room)]:
            self.queue.remove(queued)
            job = queued.job
            claim = self.store.claims.claim(job.run_id, **about_claim(job, "ray"))
            if not claim.__enter__():
                claim.__exit__(None, None, None)
                self.postpone(queued)
                continue
            row = row_since(job, self.store)
            if row is not None:
                claim.__exit__(None, None, None)
                yield self.found(job, row)
                continue
            job = job if job.threads else job.model_copy(update={"threads": int(self._needs["CPU"])})
            reference = self._do_job.remote(job.model_dump_json(), self._board, __version__, self._checkpoint(job))
            self._running[reference] = _Running(queued, claim)

    def _checkpoint(self, job: Job) -> bytes | None:
        """The run's checkpoint; None, with a note, for a damaged one."""
        try:
            return self.store.read_checkpoint(job.run_id)
        except DamagedError as error:
            self.callback.note(f"{self.store.checkpoint_path(job.run_id)} is no readable checkpoint ({error}).")
            return None

    def _stop(self) -> None:
        """Once: cancel what no worker has begun. And once: let what runs be paused."""
        if self.executor.draining and not self._stopped:
            self._stopped = True
            begun = ray.get(self._board.close.remote())
            for reference, running in self._running.items():
                if running.began is None and running.queued.job.run_id not in begun:
                    ray.cancel(reference)
        if self.executor.pausing and not self._pause_sent:
            self._pause_sent = True
            self._board.pause.remote()

    def _wait(self) -> list[Any]:
        """Tasks that have ended; waits for one a moment."""
        if not self._running:
            time.sleep(TICK_S)
            return []
        ended, _ = ray.wait(list(self._running), num_returns=1, timeout=TICK_S)
        return list(ended)

    def _receive(self) -> None:
        """The messages of the tasks since the last time."""
        by_run = {running.queued.job.run_id: running for running in self._running.values()}
        for run_id, kind, content in ray.get(self._board.take.remote()):
            if (running := by_run.get(run_id)) is None:
                continue
            job = running.queued.job
            if kind in ("begun", "preparing", "started"):
                running.extend()
            if kind == "begun":
                running.environment = content
            elif kind == "preparing":
                self.callback.preparing(*content)
            elif kind == "started":
                self.started(job)
            elif kind == "epoch":
                self.callback.epoch(job.planned, content)
            elif kind == "note":
                self.callback.note(content)
            elif kind == "checkpoint":
                self._keep(run_id, content)

    def _keep(self, run_id: str, checkpoint: bytes) -> None:
        with suppress(StoreError):  # without it the run starts again, should it be lost
            self.store.write_checkpoint(run_id, checkpoint)

    def _cancel_overdue(self) -> None:
        for reference, running in self._running.items():
            if time.monotonic() > running.deadline:
                running.overdue, running.deadline = True, float("inf")
                ray.cancel(reference, force=True)

    def _ended(self, reference: Any) -> dict[str, Any] | None:
        """A task has ended, or was lost; the row, when there is one."""
        running = self._running.pop(reference)
        try:
            return self._result(ray.get(reference), running)
        except LOSSES as error:
            if running.overdue:
                return self._timed_out(running)
            what = "its node was lost." if isinstance(error, lost.NodeDiedError) else f"its worker died: {first_line(error)}"
            return self._lost(running, "oom" if isinstance(error, lost.OutOfMemoryError) else "failed", what)
        except lost.TaskCancelledError:
            return self._timed_out(running) if running.overdue else None
        except lost.RayError as error:  # of Ray or of the node, whatever the run
            raise VpbenchError(f"Ray could not do {running.queued.job.label}: {_last_line(error)}") from error
        finally:
            running.claim.__exit__(None, None, None)

    def _result(self, result: dict[str, Any], running: _Running) -> dict[str, Any] | None:
        """What :func:`do_job` returned."""
        if "error" in result:
            raise getattr(errors, result["error"], VpbenchError)(result["text"])
        job = running.queued.job
        for place, content in result.get("files", {}).items():
            if place.startswith("_logs/"):
                with suppress(OSError):  # as on one machine, a log that cannot be written costs no run
                    _append(self.store.folder / place, content)
            else:
                self.store.write_artefact(job.run_id, Path(place).name, partial(_write, content))
        if "paused" in result:
            self._keep(job.run_id, result["paused"])
            return None
        if "crashed" in result:
            return self._lost(running, "failed", result["crashed"].rstrip())
        if "row" not in result:
            return None  # not begun, since the board was closed
        self.store.write_row(result["row"])
        return self.finished(job, result["row"])

    def _timed_out(self, running: _Running) -> dict[str, Any]:
        what = "the task did not react and was ended."
        return self.give_up(running.queued, "timeout", what, running.began, running.environment)

    def _lost(self, running: _Running, status: str, what: str) -> dict[str, Any] | None:
        """A run without a row: retry it, or write its row here."""
        if self.retry(running.queued, what):
            return None
        return self.give_up(running.queued, status, what, running.began, running.environment)


def _write(content: bytes, path: Path) -> None:
    path.write_bytes(content)


def _append(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as stream:
        stream.write(content)


def first_line(error: object) -> str:
    """Of an error of Ray, which may have many lines."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _last_line(error: object) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]
