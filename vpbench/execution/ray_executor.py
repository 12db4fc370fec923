"""Running jobs on a Ray cluster: one that is there already, or one on this machine for the time of the grid.

One Ray task per run. Nodes need vpbench and the data, at the same paths as here; they need not see the results folder: a run
writes to a temporary folder of its node, and its row and files travel back and are stored by this process, which also holds
the claims. A lost node, or a worker that was killed, costs its runs a repetition and nothing else.
"""

from __future__ import annotations

import getpass
import os
import re
import socket
import tempfile
import time
import traceback
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

import vpbench
from vpbench.core import errors
from vpbench.core.errors import StoreError, UsageError, VpbenchError
from vpbench.execution.cost import longest_first, past_runs
from vpbench.execution.device import describe, resolve_device
from vpbench.execution.executors import Drainable, Silent, Watcher, about_claim, waits_for
from vpbench.execution.job import Job, row_since, run_job
from vpbench.execution.local import processors
from vpbench.execution.plan import PlannedRun
from vpbench.execution.serve import run_log
from vpbench.execution.worker import store_failure, timed_out
from vpbench.store.claims import Claims
from vpbench.store.folder import Store
from vpbench.training.checkpoint import Paused
from vpbench.training.fit import Epoch

CONNECT_S = 5.0  # for an answer of the cluster's head
OBJECT_STORE = 256 * 2**20  # bytes, of a cluster of our own; a run's files are a few megabytes
TICK_S = 0.2
POLL_S = 0.5  # between two looks at runs that another command works on
ASK_S = 1.0  # between two questions of a task whether to leave its run
TELL_S = 0.5  # between two words on the decoding of images
BACKOFF_S = 1.0  # before a run is repeated, doubled each time
GRACE_S = 10.0  # a task ends a run that is too long by itself; one that has not after this time hangs
AHEAD = 2  # tasks that wait for a free place, so that no place waits for us

# What Ray says of a task that did nothing wrong itself.
LOSSES = (
    lost.WorkerCrashedError, lost.NodeDiedError, lost.ObjectLostError, lost.OutOfMemoryError, lost.LocalRayletDiedError,
)  # fmt: skip


class RayExecutor(Drainable):
    """The executor ``ray``.

    Args:
        address: ``HOST:PORT`` of a cluster's head, ``ray://HOST:PORT``, or ``auto`` for the cluster on this machine; by default
            what RAY_ADDRESS says, or else a cluster of our own on this machine, which ends with the grid.
        workers: runs at a time; by default as many as the cluster has room for.
        per_gpu: runs that share a GPU.
        retries: how often a run is repeated whose worker or node died.

    Raises:
        UsageError: when nothing answers at the address, or for numbers that make no sense.
    """

    elsewhere = True

    def __init__(
        self, address: str | None = None, workers: int | None = None, per_gpu: int | None = None, retries: int = 3
    ) -> None:
        for name, value, least in (("workers", workers, 1), ("per-gpu", per_gpu, 1), ("retries", retries, 0)):
            if value is not None and value < least:
                raise UsageError(f"--{name} {value}: take {least} or more.")
        self.workers, self.per_gpu, self.retries = workers, per_gpu or 1, retries
        self.address = str(address) if address is not None else os.environ.get("RAY_ADDRESS") or None
        if self.address is not None:
            _check_answers(self.address)

    def __call__(self, jobs: Sequence[Job], store: Store, watcher: Watcher) -> Iterator[dict[str, Any]]:
        """Longest expected run first. The cluster is connected to, or started, with the first row that is asked for."""
        return self._rows(longest_first(jobs, past_runs(store)), store, watcher) if jobs else iter(())

    def _rows(self, jobs: Sequence[Job], store: Store, watcher: Watcher) -> Iterator[dict[str, Any]]:
        needs = self.needs(jobs[0])
        ours = not ray.is_initialized()
        if ours:
            self._connect(needs)
        try:
            if not _places(needs):
                raise UsageError(_no_room(needs, self.address))
            yield from _Grid(self, needs, store, watcher).run(jobs)
        except lost.RayError as error:
            raise VpbenchError(
                f"the Ray cluster was lost: {_first_line(error)} Finished runs are stored; start again."
            ) from error
        finally:
            if ours:
                ray.shutdown()

    def needs(self, job: Job) -> dict[str, float]:
        """What one run takes of a node, in Ray's terms."""
        return {"CPU": job.threads or 1, **({"GPU": 1 / self.per_gpu} if job.device != "cpu" else {})}

    def _connect(self, needs: dict[str, float]) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a cluster of our own reports to nobody
        own = {
            "address": "local", "include_dashboard": False, "object_store_memory": OBJECT_STORE,
            "num_cpus": int(max(self.workers * needs["CPU"] if self.workers else processors(), needs["CPU"])),
        }  # fmt: skip
        there = {"address": self.address} if self.address is not None else own
        try:
            ray.init(**there, log_to_driver=False, logging_level="ERROR")
        except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
            where = f"no Ray cluster at --address {self.address}" if self.address else "Ray does not start on this machine"
            raise UsageError(f"{where}: {' '.join(str(error).split())[:300]}") from error


def _check_answers(address: str) -> None:
    """Fail soon when no server answers at an address: Ray itself tries for a minute, and may end the process.

    Ray speaks gRPC, which is HTTP/2: a server of that greets a client's first bytes with a frame of type 4 (SETTINGS).
    """
    if address in ("auto", "local"):
        return
    found = re.fullmatch(r"(?:ray://)?(\[[^\]]+\]|[^:/\s]+):(\d{1,5})", address)
    if not found or not 0 < int(found[2]) < 65536:
        raise UsageError(f"--address {address}: write HOST:PORT of the cluster's head, ray://HOST:PORT, or auto.")
    way_out = "start one with 'ray start --head', or leave the address out for a cluster on this machine."
    try:
        with socket.create_connection((found[1].strip("[]"), int(found[2])), timeout=CONNECT_S) as connection:
            if os.environ.get("RAY_USE_TLS") == "1":
                return
            connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + b"\x04" + bytes(5))
            if connection.recv(9)[3:4] != b"\x04":
                raise UsageError(f"--address {address}: what answers there is not Ray; {way_out}")
    except OSError as error:
        raise UsageError(f"--address {address}: no Ray cluster answers there ({error.strerror or error}); {way_out}") from error


def _places(needs: dict[str, float]) -> int:
    """How many runs the nodes that are up have room for."""
    return sum(
        min(int(node["Resources"].get(name, 0) / amount + 1e-6) for name, amount in needs.items())
        for node in ray.nodes()
        if node["Alive"]
    )


def _no_room(needs: dict[str, float], address: str | None) -> str:
    wanted = " and ".join(f"{amount:g} {name}" for name, amount in needs.items())
    where = f"the Ray cluster at {address}" if address else "this machine"
    return f"a run needs {wanted} on one node, and no node of {where} has that; see --device and --threads."


@dataclass
class _Task:
    """A job on its way: its place in the queue, when it may start, and how often it was lost."""

    job: Job
    order: float
    not_before: float = 0.0
    losses: int = 0


@dataclass
class _Running:
    """A task that Ray has, with the run's claim; ``began`` and ``environment`` are known once a worker has it."""

    task: _Task
    claim: AbstractContextManager[bool]
    began: datetime | None = None
    deadline: float = float("inf")
    overdue: bool = False
    environment: dict[str, Any] = field(default_factory=dict)


class _Grid:
    """One call of the executor: what is left to do, and what Ray has."""

    def __init__(self, executor: RayExecutor, needs: dict[str, float], store: Store, watcher: Watcher) -> None:
        self.executor, self.needs, self.store, self.watcher = executor, needs, store, watcher
        self.tasks: list[_Task] = []
        self.running: dict[Any, _Running] = {}
        self.started: set[str] = set()
        self.stopped = self.told_waiting = self.told_pause = False
        # On our own node and no other one: if that is lost, so is this process. With soft=True Ray takes any node.
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        lasting = {"max_restarts": -1, "max_task_retries": -1}
        self.board = ray.remote(num_cpus=0)(Board).options(scheduling_strategy=here, **lasting).remote()
        # Ray's own repetitions are off, so that they are counted, told, and end in a row.
        self.do_job = ray.remote(max_retries=0, num_cpus=needs["CPU"], num_gpus=needs.get("GPU", 0))(do_job)

    def run(self, jobs: Sequence[Job]) -> Iterator[dict[str, Any]]:
        self.tasks = [_Task(job, order) for order, job in enumerate(jobs)]
        try:
            while self.running or (self.tasks and not self.executor.draining):
                yield from self._submit()
                if self.executor.draining and not self.stopped:
                    self._stop_waiting()
                if self.executor.pausing and not self.told_pause:
                    self.told_pause = True
                    self.board.pause.remote()
                ended = self._wait()
                self._hear()
                self._cancel_overdue()
                for reference in ended:
                    row = self._ended(reference)
                    if row is not None:
                        yield row
        finally:
            for reference, running in self.running.items():
                ray.cancel(reference, force=True)
                running.claim.__exit__(None, None, None)
            ray.kill(self.board)

    def _submit(self) -> Iterator[dict[str, Any]]:
        """Give Ray as many tasks as it has room for; rows that another command has written meanwhile are finished."""
        room = _places(self.needs) + AHEAD if self.tasks and not self.executor.draining else 0
        room = min(room, self.executor.workers or room) - len(self.running)
        now = time.monotonic()
        for task in sorted(self.tasks, key=lambda task: task.order)[: max(0, room)]:
            if task.not_before > now:
                continue
            self.tasks.remove(task)
            claim = self.store.claims.claim(task.job.run_id, **about_claim(task.job, "ray"))
            if not claim.__enter__():
                claim.__exit__(None, None, None)
                self._postpone(task)
                continue
            row = row_since(task.job, self.store)
            if row is not None:
                claim.__exit__(None, None, None)
                yield self._finished(task.job, row)
                continue
            job = task.job if task.job.threads else task.job.model_copy(update={"threads": int(self.needs["CPU"])})
            reference = self.do_job.remote(
                job.model_dump_json(), self.board, vpbench.__version__, self.store.read_checkpoint(job.run_id)
            )  # fmt: skip
            self.running[reference] = _Running(task, claim)

    def _wait(self) -> list[Any]:
        """Tasks that have ended; waits for one a moment."""
        if not self.running:
            time.sleep(TICK_S)
            return []
        ended, _ = ray.wait(list(self.running), num_returns=1, timeout=TICK_S)
        return list(ended)

    def _stop_waiting(self) -> None:
        """Take back what no worker has begun."""
        self.stopped = True
        begun = ray.get(self.board.close.remote())
        for reference, running in self.running.items():
            if running.began is None and running.task.job.run_id not in begun:
                ray.cancel(reference)

    def _hear(self) -> None:
        """What the tasks said since the last time."""
        by_run = {running.task.job.run_id: running for running in self.running.values()}
        for run_id, kind, content in ray.get(self.board.take.remote()):
            running = by_run.get(run_id)
            if running is None:
                continue
            job = running.task.job
            limit = job.timeout_s
            if kind == "begun":
                running.environment, running.began = content, datetime.now(UTC)
            elif kind == "preparing":
                self.watcher.preparing(*content)
            elif kind == "started":
                running.began = datetime.now(UTC)
                self._tell_started(job)
            elif kind == "epoch":
                self.watcher.epoch(job.planned, content)
            elif kind == "note":
                self.watcher.note(content)
            elif kind == "checkpoint":
                self._keep(run_id, content)
            if kind in ("begun", "preparing", "started") and limit:
                running.deadline = time.monotonic() + limit + GRACE_S

    def _keep(self, run_id: str, checkpoint: bytes) -> None:
        with suppress(StoreError):  # it costs time, should the run be lost
            self.store.write_checkpoint(run_id, checkpoint)

    def _cancel_overdue(self) -> None:
        for reference, running in self.running.items():
            if time.monotonic() > running.deadline:
                running.overdue, running.deadline = True, float("inf")
                ray.cancel(reference, force=True)

    def _ended(self, reference: Any) -> dict[str, Any] | None:
        """A task has ended, or was lost; the row, when there is one."""
        running = self.running.pop(reference)
        try:
            return self._result(ray.get(reference), running)
        except LOSSES as error:
            what = "its node was lost." if isinstance(error, lost.NodeDiedError) else f"its worker died: {_first_line(error)}"
            return self._lost(running, "oom" if isinstance(error, lost.OutOfMemoryError) else "failed", what)
        except lost.TaskCancelledError:
            return self._lost(running, "timeout", "") if running.overdue else None
        except lost.RayError as error:  # of Ray or of the node, whatever the run
            raise VpbenchError(f"Ray could not do {running.task.job.label}: {_last_line(error)}") from error
        finally:
            running.claim.__exit__(None, None, None)

    def _result(self, result: dict[str, Any], running: _Running) -> dict[str, Any] | None:
        """What :func:`do_job` returned."""
        if "error" in result:
            raise getattr(errors, result["error"], VpbenchError)(result["text"])
        job = running.task.job
        for place, content in result.get("files", {}).items():
            if place.startswith("_logs/"):
                with suppress(OSError):  # as where no cluster is between, a log that cannot be kept costs no run
                    _append(self.store.folder / place, content)
            else:
                self.store.write_artefact(job.run_id, Path(place).name, partial(_write, content))
        if "paused" in result:
            self._keep(job.run_id, result["paused"])
            return None
        if "crashed" in result:
            return self._lost(running, "failed", result["crashed"].rstrip())
        if "row" not in result:
            return None  # not begun, since no more is to be started
        self.store.write_row(result["row"])
        return self._finished(job, result["row"])

    def _lost(self, running: _Running, status: str, what: str) -> dict[str, Any] | None:
        """A run that came to no row: repeat it, or write its row here."""
        task, job = running.task, running.task.job
        if status != "timeout" and task.losses < self.executor.retries:
            if self.executor.draining:
                return None
            self.tasks.append(
                _Task(job, task.order, time.monotonic() + BACKOFF_S * 2**task.losses, task.losses + 1)
            )  # fmt: skip
            self.watcher.note(f"{job.label}: {_last_line(what)} It is repeated.")
            return None
        last = timed_out(job.timeout_s) if status == "timeout" else f"Given up after {task.losses + 1} attempts."
        row = store_failure(
            job.planned, job.sizes, self.store, status=status, started_at=running.began or datetime.now(UTC),
            error=f"{what}\n{last}".strip(),
            environment={**running.environment, "checkpoint_blocks": job.checkpoint_blocks},
        )  # fmt: skip
        return self._finished(job, row)

    def _postpone(self, task: _Task) -> None:
        """Another command has this run: look again later, after everything else."""
        self.tasks.append(_Task(task.job, float("inf"), time.monotonic() + POLL_S, task.losses))
        others = sum(task.order == float("inf") for task in self.tasks)
        if not self.told_waiting and not self.running and others == len(self.tasks):
            self.told_waiting = True
            self.watcher.note(waits_for(others))

    def _tell_started(self, job: Job) -> None:
        if job.run_id not in self.started:  # a repetition is the same run
            self.started.add(job.run_id)
            self.watcher.started(job.planned)

    def _finished(self, job: Job, row: dict[str, Any]) -> dict[str, Any]:
        self._tell_started(job)
        self.watcher.finished(job.planned, row)
        return row


class Board:
    """A Ray actor beside this process: tasks ask here whether to begin, and tell how they get on."""

    def __init__(self) -> None:
        self._said: list[tuple[str, str, Any]] = []
        self._begun: set[str] = set()
        self._closed = self._paused = False

    def begin(self, run_id: str, environment: dict[str, Any]) -> bool:
        """Whether a task may do its run."""
        if self._closed:
            return False
        self._begun.add(run_id)
        self.tell(run_id, "begun", environment)
        return True

    def tell(self, run_id: str, kind: str, content: Any = None) -> None:
        self._said.append((run_id, kind, content))

    def take(self) -> list[tuple[str, str, Any]]:
        """What was told since the last call, in order."""
        said, self._said = self._said, []
        return said

    def close(self) -> set[str]:
        """Let no task begin any more; the runs that have begun."""
        self._closed = True
        return self._begun

    def pause(self) -> None:
        """Let all tasks leave their runs."""
        self._paused = True

    def paused(self) -> bool:
        return self._paused


class _Teller(Silent):
    """A task's watcher, which tells the board."""

    def __init__(self, board: Any, run_id: str) -> None:
        self._board, self._run_id, self._told = board, run_id, 0.0
        self._asked, self._paused = time.monotonic(), False

    def preparing(self, dataset: str, done: int, total: int) -> None:
        if done == total or time.monotonic() - self._told > TELL_S:
            self._told = time.monotonic()
            self._board.tell.remote(self._run_id, "preparing", (dataset, done, total))

    def started(self, run: PlannedRun) -> None:
        self._board.tell.remote(self._run_id, "started")

    def epoch(self, run: PlannedRun, epoch: Epoch) -> None:
        self._board.tell.remote(self._run_id, "epoch", epoch)

    def note(self, text: str) -> None:
        self._board.tell.remote(self._run_id, "note", text)

    def paused(self) -> bool:
        """Whether the command wants the run to be left; asks it now and then."""
        if time.monotonic() > self._asked + ASK_S:
            self._asked = time.monotonic()
            with suppress(lost.RayError):  # no answer, no pause
                self._paused = bool(ray.get(self._board.paused.remote()))
        return self._paused


class _NodeStore(Store):
    """A folder of the node; the command gets a run's checkpoints at once, since the node may be lost."""

    def __init__(self, folder: str, board: Any) -> None:
        super().__init__(folder)
        self._board = board

    def write_checkpoint(self, run_id: str, content: bytes) -> None:
        super().write_checkpoint(run_id, content)
        self._board.tell.remote(run_id, "checkpoint", content)


def do_job(text: str, board: Any, version: str, checkpoint: bytes | None) -> dict[str, Any]:
    """The Ray task: do a job on a node, in a temporary folder.

    Args:
        text: the job as JSON.
        board: handle of the :class:`Board`.
        version: of the vpbench that asks.
        checkpoint: of the run, where it was left before.

    Returns:
        ``row`` and ``files`` (contents by path in the results folder); or ``error`` (a class of ``vpbench.core.errors``) and
        ``text`` for what no run is to blame for; or ``crashed`` (a traceback) and ``files``; or ``paused`` (the checkpoint); or
        nothing, when it is too late.
    """
    job, host = Job.model_validate_json(text), socket.gethostname()
    if vpbench.__version__ != version:
        return {"error": "UsageError", "text": f"node {host} has vpbench {vpbench.__version__}, and this is {version}; "
                "install the same version on all nodes."}  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="vpbench-") as folder:
        store = _NodeStore(folder, board)
        store.claims = Claims(Path(tempfile.gettempdir()) / f"vpbench-{getpass.getuser()}")  # of all tasks of this node
        result: dict[str, Any] = {}
        try:
            if not ray.get(board.begin.remote(job.run_id, describe(resolve_device(job.device)))):
                return {}
            if checkpoint is not None:
                Store(folder).write_checkpoint(job.run_id, checkpoint)
            teller = _Teller(board, job.run_id)
            with run_log(store, job, f"ray, {host}"):
                result["row"] = run_job(job, store, teller, teller.paused)
        except Paused:
            return {"paused": store.read_checkpoint(job.run_id)}
        except VpbenchError as error:
            return {"error": type(error).__name__, "text": f"{error} (On node {host}.)"}
        except lost.RayError:
            raise
        except Exception:
            result["crashed"] = traceback.format_exc(limit=-6)
        row = store.row_path(job.run_id)
        kept = (row, store.checkpoint_path(job.run_id))
        paths = [path for path in Path(folder).rglob("*") if path.is_file() and path not in kept]
        return {**result, "files": {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}}


def _write(content: bytes, path: Path) -> None:
    path.write_bytes(content)


def _append(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as stream:
        stream.write(content)


def _first_line(error: object) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _last_line(error: object) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]
