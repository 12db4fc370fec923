"""Running jobs in worker processes of this machine, one per GPU slot or several on the CPUs.

A worker is a fresh Python process that gets jobs as lines of JSON (``vpbench.execution.serve``); it does one run after the
other and keeps data sets open between them. Threads and GPU are set in its environment, before it imports torch. What kills
a worker - a signal, the system's out-of-memory killer, a crash in a library - costs the run that it was doing, and nothing
else.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from vpbench.core import errors
from vpbench.core.errors import UsageError, VpbenchError
from vpbench.execution.cost import longest_first, past_runs
from vpbench.execution.executors import Drainable, Watcher, waits_for
from vpbench.execution.job import Job, row_since
from vpbench.execution.worker import store_failure, timed_out
from vpbench.store.folder import Store
from vpbench.training.fit import Epoch

WORKERS_AT_MOST = 8  # unless asked for; each takes memory for torch, a backbone and a batch
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
GRACE_S = 10.0  # a worker ends a run that is too long by itself; one that has not after this time hangs
BACKOFF_S = 1.0  # before a run is repeated, doubled each time
POLL_S = 0.5  # between two looks at runs that another command works on
TICK_S = 0.2
STARTS = 3  # in a row that may fail in one slot
LOG_LINES = 20  # of a dead worker's log that its run's row keeps


@dataclass(frozen=True)
class Slot:
    """A place for a worker: its name for people, and what its environment has on top of ours."""

    name: str
    environment: dict[str, str]
    threads: int


@dataclass
class _Task:
    """A job on its way: its place in the queue, when it may start, and how often a worker died of it."""

    job: Job
    order: float
    not_before: float = 0.0
    deaths: int = 0


@dataclass
class _Worker:
    """A process, and what it is doing."""

    slot: Slot
    process: subprocess.Popen[bytes]
    errors: IO[bytes]
    ready: bool = False
    task: _Task | None = None
    began: datetime | None = None
    deadline: float = float("inf")
    timed_out: bool = False
    environment: dict[str, Any] = field(default_factory=dict)


class Local(Drainable):
    """The executor ``local``.

    Args:
        workers: processes, on CPUs; by default one per processor core, at most :data:`WORKERS_AT_MOST`.
        gpus: indices of the GPUs to use, as torch counts them here; by default all.
        per_gpu: workers on each GPU.
        retries: how often a run is repeated whose worker died.

    Raises:
        UsageError: for a GPU that does not exist, or numbers that make no sense.
    """

    def __init__(
        self, workers: int | None = None, gpus: Sequence[int] | None = None, per_gpu: int | None = None, retries: int = 1
    ) -> None:
        for name, value, least in (("workers", workers, 1), ("per-gpu", per_gpu, 1), ("retries", retries, 0)):
            if value is not None and value < least:
                raise UsageError(f"--{name} {value}: take {least} or more.")
        self.workers, self.gpus, self.per_gpu, self.retries = workers, gpus, per_gpu, retries
        if gpus is not None:
            self._check_gpus(gpus)

    def __call__(self, jobs: Sequence[Job], store: Store, watcher: Watcher) -> Iterator[dict[str, Any]]:
        """Longest expected run first. Returns at once; workers start with the first row that is asked for."""
        if not jobs:
            return iter(())
        slots = self.slots(jobs[0].device, len(jobs), jobs[0].threads)
        return _Grid(self, slots, store, watcher).run(longest_first(jobs, past_runs(store)))

    def slots(self, device: str, jobs: int, threads: int | None = None) -> list[Slot]:
        """Where workers run. Threads are divided: processes that have more threads than there are cores hinder each other.

        Raises:
            UsageError: when workers are asked for that ``device`` cannot have.
        """
        if device == "cpu":
            if self.gpus is not None or self.per_gpu is not None:
                raise UsageError("--gpus and --per-gpu need --device cuda; on CPUs say --workers N.")
            count = self.workers or min(processors(), WORKERS_AT_MOST)
            names, extra = [f"cpu {index}" for index in range(count)], [{"CUDA_VISIBLE_DEVICES": ""}] * count
        else:
            if self.workers is not None:
                raise UsageError("--workers is for CPUs; on GPUs say --per-gpu N (and --gpus 0,1), or --device cpu.")
            import torch

            gpus = list(self.gpus) if self.gpus is not None else list(range(torch.cuda.device_count()))
            # The first worker of each GPU before the second of any, in case there are fewer runs than slots.
            chosen = [gpu for _ in range(self.per_gpu or 1) for gpu in gpus]
            names = [f"gpu {gpu}" for gpu in chosen]
            extra = [{"CUDA_VISIBLE_DEVICES": _visible(gpu)} for gpu in chosen]
        share = threads or max(1, processors() // len(names))
        return [
            Slot(name, {**more, **dict.fromkeys(THREAD_VARIABLES, str(share))}, share)
            for name, more in list(zip(names, extra))[:jobs]
        ]

    @staticmethod
    def _check_gpus(gpus: Sequence[int]) -> None:
        import torch

        count = torch.cuda.device_count()
        if not gpus:
            raise UsageError("--gpus names no GPU; write --gpus 0,2.")
        for gpu in gpus:
            if not 0 <= gpu < count:
                there = f"torch sees {count}, numbered from 0" if count else "torch sees no GPU here; leave --gpus out"
                raise UsageError(f"--gpus {','.join(map(str, gpus))}: there is no GPU {gpu}; {there}.")
        if len(set(gpus)) < len(gpus):
            raise UsageError(f"--gpus {','.join(map(str, gpus))}: a GPU is named twice; for several workers on one: --per-gpu N.")


def processors() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _visible(gpu: int) -> str:
    """A GPU by the name it has outside, where this process itself may see some GPUs only."""
    names = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    return names[gpu] if names else str(gpu)


class _Grid:
    """One call of the executor: its workers and what is left to do."""

    def __init__(self, local: Local, slots: Sequence[Slot], store: Store, watcher: Watcher) -> None:
        self.local, self.slots, self.store, self.watcher = local, slots, store, watcher
        self.tasks: list[_Task] = []
        self.workers: list[_Worker] = []
        self.messages: queue.SimpleQueue[tuple[_Worker, dict[str, Any] | None]] = queue.SimpleQueue()
        self.failed_starts: dict[str, int] = {}
        self.started: set[str] = set()
        self.told_waiting = self.told_pause = False

    def run(self, jobs: Sequence[Job]) -> Iterator[dict[str, Any]]:
        self.tasks = [_Task(job, order) for order, job in enumerate(jobs)]
        try:
            while self._busy() or (self.tasks and not self.local.draining):
                self._fill()
                self._kill_overdue()
                self._pause()
                with suppress(queue.Empty):
                    worker, message = self.messages.get(timeout=TICK_S)
                    row = self._dead(worker) if message is None else self._heard(worker, message)
                    if row is not None:
                        yield row
            for worker in self.workers:
                self._dismiss(worker)
        finally:
            for worker in list(self.workers):
                self._kill(worker)

    def _busy(self) -> bool:
        return any(worker.task for worker in self.workers)

    def _fill(self) -> None:
        """Workers in empty slots while there is work for them, and work for idle workers."""
        if self.local.draining:
            return
        idle = sum(worker.task is None for worker in self.workers)
        taken = [worker.slot for worker in self.workers]
        for slot in [slot for slot in self.slots if slot not in taken][: max(0, len(self.tasks) - idle)]:
            self._start(slot)
        now = time.monotonic()
        for worker in self.workers:
            due = [task for task in self.tasks if task.not_before <= now]
            if not due:
                break
            if worker.ready and worker.task is None:
                self._give(worker, min(due, key=lambda task: task.order))

    def _start(self, slot: Slot) -> None:
        path = os.pathsep.join(entry or str(Path.cwd()) for entry in sys.path)
        errors_file = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the worker
        process = subprocess.Popen(
            [sys.executable, "-u", "-P", "-m", "vpbench.execution.serve", str(self.store.folder), slot.name],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors_file,
            env={**os.environ, **slot.environment, "PYTHONPATH": path},
            # A group of its own: Ctrl-C on the terminal reaches this process alone, and a kill reaches the worker's children.
            process_group=0 if os.name == "posix" else None,
        )  # fmt: skip
        worker = _Worker(slot, process, errors_file)
        self.workers.append(worker)
        threading.Thread(target=self._listen, args=(worker,), daemon=True).start()

    def _listen(self, worker: _Worker) -> None:
        assert worker.process.stdout is not None
        for line in worker.process.stdout:
            with suppress(ValueError):  # the last line of a worker that was killed may be cut off
                self.messages.put((worker, json.loads(line)))
        self.messages.put((worker, None))

    def _give(self, worker: _Worker, task: _Task) -> None:
        self.tasks.remove(task)
        job = task.job if task.job.threads else task.job.model_copy(update={"threads": worker.slot.threads})
        worker.task, worker.began, worker.timed_out = task, datetime.now(UTC), False
        self._extend(worker)
        assert worker.process.stdin is not None
        with suppress(OSError):  # a dead worker is heard of by the end of its output
            worker.process.stdin.write(job.model_dump_json().encode() + b"\n")
            worker.process.stdin.flush()

    def _extend(self, worker: _Worker) -> None:
        limit = worker.task and worker.task.job.timeout_s
        worker.deadline = time.monotonic() + limit + GRACE_S if limit else float("inf")

    def _kill_overdue(self) -> None:
        for worker in self.workers:
            if worker.task and time.monotonic() > worker.deadline:
                worker.timed_out, worker.deadline = True, float("inf")
                if hasattr(signal, "SIGUSR1"):
                    with suppress(OSError):
                        worker.process.send_signal(signal.SIGUSR1)  # it writes to its log where it is
                    time.sleep(0.3)
                _end(worker.process)

    def _pause(self) -> None:
        """Once: ask all workers to leave their runs; they say so."""
        if not self.local.pausing or self.told_pause:
            return
        self.told_pause = True
        for worker in self.workers:
            with suppress(OSError):
                worker.process.terminate()

    def _heard(self, worker: _Worker, message: dict[str, Any]) -> dict[str, Any] | None:
        """A worker's message; the row, when it has finished one."""
        kind, task = message.pop("kind"), worker.task
        if kind == "ready":
            worker.ready = True
            self.failed_starts[worker.slot.name] = 0
        elif kind == "environment":
            worker.environment = message["columns"]
        if task is None:
            return None
        job = task.job
        if kind == "preparing":
            self._extend(worker)
            self.watcher.preparing(message["dataset"], message["done"], message["total"])
        elif kind == "started":
            self._extend(worker)
            worker.began = datetime.now(UTC)
            self._tell_started(job)
        elif kind == "epoch":
            self.watcher.epoch(job.planned, Epoch(**message["epoch"]))
        elif kind == "note":
            self.watcher.note(message["text"])
        elif kind == "elsewhere":
            worker.task = None
            self._postpone(task)
        elif kind == "paused":
            worker.task = None
            self._kill(worker)
            if not self.local.pausing:  # somebody else asked this worker to end, which the run is not to blame for
                self.tasks.append(task)
                self.watcher.note(f"{job.label}: its worker was asked to stop. It goes on in another one.")
        elif kind == "finished":
            worker.task = None
            row = message["row"]
            return self._finished(job, {**row, "started_at": datetime.fromisoformat(row["started_at"])})
        elif kind == "crashed":
            worker.task = None
            return self._lost(task, worker, "failed", message["text"].rstrip())
        elif kind == "error":
            raise getattr(errors, message["type"], VpbenchError)(message["text"])
        return None

    def _tell_started(self, job: Job) -> None:
        if job.run_id not in self.started:  # a repetition is the same run
            self.started.add(job.run_id)
            self.watcher.started(job.planned)

    def _finished(self, job: Job, row: dict[str, Any]) -> dict[str, Any]:
        self._tell_started(job)
        self.watcher.finished(job.planned, row)
        return row

    def _postpone(self, task: _Task) -> None:
        """Another command has this run: look again later, after everything else."""
        self.tasks.append(_Task(task.job, float("inf"), time.monotonic() + POLL_S, task.deaths))
        others = sum(task.order == float("inf") for task in self.tasks)
        if not self.told_waiting and others == len(self.tasks):
            self.told_waiting = True
            self.watcher.note(waits_for(others))

    def _dead(self, worker: _Worker) -> dict[str, Any] | None:
        """A worker's output has ended."""
        if worker not in self.workers:
            return None
        code = worker.process.wait()
        self.workers.remove(worker)
        said = _tail(worker)
        self._kill(worker)
        if worker.task is None:
            if not worker.ready:
                self._count_failed_start(worker.slot, said)
            return None
        task, worker.task = worker.task, None
        if worker.timed_out:
            return self._lost(task, worker, "timeout", "the worker did not react and was killed.")
        return self._lost(task, worker, "failed", f"the worker process {_how(code)}.")

    def _count_failed_start(self, slot: Slot, said: str) -> None:
        count = self.failed_starts[slot.name] = self.failed_starts.get(slot.name, 0) + 1
        if count >= STARTS:
            reason = (said.splitlines() or ["it said nothing"])[-1]
            raise VpbenchError(f"a worker process ({slot.name}) could not start, {count} times: {reason}")
        time.sleep(TICK_S)

    def _lost(self, task: _Task, worker: _Worker, status: str, what: str) -> dict[str, Any] | None:
        """A run that its worker did not finish: repeat it, or write its row here."""
        job, store = task.job, self.store
        if self.local.pausing and status == "failed":  # ended together with us; the same command does it again
            return None
        if status == "failed" and task.deaths < self.local.retries:
            wait = BACKOFF_S * 2**task.deaths
            self.tasks.append(_Task(job, task.order, time.monotonic() + wait, task.deaths + 1))
            self.watcher.note(f"{job.label}: {what.splitlines()[-1]} It is repeated.")
            return None
        with store.claims.claim(job.run_id, label=job.label) as ours:
            if not ours:
                self._postpone(task)
                return None
            if (row := row_since(job, store)) is not None:  # the worker died between its row and its last word
                return self._finished(job, row)
            printed = _log_tail(store.log_path(job.run_id))
            last = timed_out(job.timeout_s) if status == "timeout" else f"given up after {task.deaths + 1} attempts."
            row = store_failure(
                job.planned, job.sizes, store, status=status, started_at=worker.began or datetime.now(UTC),
                error="\n".join(part for part in (printed, f"{what} {last[0].upper()}{last[1:]}") if part),
                environment={
                    **worker.environment, "threads": job.threads or worker.slot.threads,
                    "checkpoint_blocks": job.checkpoint_blocks,
                },
            )  # fmt: skip
        return self._finished(job, row)

    def _dismiss(self, worker: _Worker) -> None:
        """A worker without work ends when its input does."""
        assert worker.process.stdin is not None
        with suppress(OSError):
            worker.process.stdin.close()

    def _kill(self, worker: _Worker) -> None:
        """Whatever state it is in; an idle one that has been dismissed gets a moment to end by itself."""
        self._dismiss(worker)
        if worker.task is None and worker.ready:
            with suppress(subprocess.TimeoutExpired):
                worker.process.wait(timeout=2)
        _end(worker.process)
        worker.process.wait()
        worker.errors.close()
        if worker in self.workers:
            self.workers.remove(worker)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill a worker and its children."""
    with suppress(OSError):
        if os.name == "posix":
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()


def _how(code: int) -> str:
    """An exit code in words."""
    if code >= 0:
        return f"ended with exit code {code}"
    name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
    return f"was killed ({name})" + (", perhaps because the machine ran out of memory" if name == "SIGKILL" else "")


def _tail(worker: _Worker) -> str:
    with suppress(OSError, ValueError):
        worker.errors.seek(0)
        return worker.errors.read().decode(errors="replace").strip()
    return ""


def _log_tail(path: Path) -> str:
    """The last lines that a run printed, its attempts' headings apart."""
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError:
        return ""
    return "\n".join(line for line in lines[-LOG_LINES:] if not line.startswith("--- "))
