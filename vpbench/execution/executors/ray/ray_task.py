"""What Ray runs on a node."""

from __future__ import annotations

import getpass
import socket
import tempfile
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError

from vpbench.core.errors import VpbenchError
from vpbench.core.version import __version__
from vpbench.execution.callbacks import Callback
from vpbench.execution.job import Job
from vpbench.execution.opened_data import OpenedData
from vpbench.execution.run_job import run_job
from vpbench.execution.run_log import run_log
from vpbench.planning.plan import PlannedRun
from vpbench.spec.device import describe, resolve_device
from vpbench.store.artefacts import CHECKSUMS
from vpbench.store.claims import Claims
from vpbench.store.store import Store
from vpbench.training.checkpoint import Paused
from vpbench.training.fit import Epoch

ASK_S = 1.0  # between two questions of a task whether to pause its run
PROGRESS_S = 0.5  # between two messages on the decoding of images


class _BoardCallback(Callback):
    """A callback that sends messages to the board."""

    def __init__(self, board: Any, run_id: str) -> None:
        self._board, self._run_id, self._sent = board, run_id, 0.0
        self._asked, self._paused = time.monotonic(), False

    def preparing(self, dataset: str, done: int, total: int) -> None:
        if done == total or time.monotonic() - self._sent > PROGRESS_S:
            self._sent = time.monotonic()
            self._board.send.remote(self._run_id, "preparing", (dataset, done, total))

    def started(self, run: PlannedRun) -> None:
        self._board.send.remote(self._run_id, "started")

    def epoch(self, run: PlannedRun, epoch: Epoch) -> None:
        self._board.send.remote(self._run_id, "epoch", epoch)

    def note(self, text: str) -> None:
        self._board.send.remote(self._run_id, "note", text)

    def paused(self) -> bool:
        """Whether the command wants the run to pause; asks now and then."""
        if time.monotonic() > self._asked + ASK_S:
            self._asked = time.monotonic()
            with suppress(RayError):  # no answer, no pause
                self._paused = bool(ray.get(self._board.paused.remote()))
        return self._paused


class _NodeStore(Store):
    """A folder of the node; checkpoints are sent to the command at once, since the node may be lost."""

    def __init__(self, folder: str, board: Any) -> None:
        super().__init__(folder)
        self._board = board

    def write_checkpoint(self, run_id: str, content: bytes) -> None:
        super().write_checkpoint(run_id, content)
        self._board.send.remote(run_id, "checkpoint", content)


def task_function() -> Callable[..., dict[str, Any]]:
    """:func:`do_job` as Ray is to run it: a worker process unpickles it once, and keeps its open data sets between tasks."""
    opened = OpenedData()

    def do(text: str, board: Any, version: str, checkpoint: bytes | None) -> dict[str, Any]:
        return do_job(text, board, version, checkpoint, opened)

    return do


def do_job(text: str, board: Any, version: str, checkpoint: bytes | None, opened: OpenedData) -> dict[str, Any]:
    """The Ray task: do a job on a node, in a temporary folder.

    Args:
        text: the job as JSON.
        board: handle of the :class:`Board`.
        version: of the vpbench that asks.
        checkpoint: of the run, when it was paused or lost before.
        opened: the data sets of this worker process.

    Returns:
        ``row`` and ``files`` (contents by path in the results folder); or ``error`` (a class of ``vpbench.core.errors``) and
        ``text`` for an error that concerns all runs; or ``crashed`` (a traceback) and ``files``; or ``paused`` (the
        checkpoint); or nothing, when the board is closed.
    """
    job, host = Job.model_validate_json(text), socket.gethostname()
    if __version__ != version:
        return {"error": "UsageError", "text": f"node {host} has vpbench {__version__}, and this is {version}; "
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
            callback = _BoardCallback(board, job.run_id)
            with run_log(store, job, f"ray, {host}"):
                result["row"] = run_job(job, store, opened, callback, callback.paused)
        except Paused:
            return {"paused": store.read_checkpoint(job.run_id)}
        except VpbenchError as error:
            return {"error": type(error).__name__, "text": f"{error} (On node {host}.)"}
        except RayError:
            raise
        except Exception:
            result["crashed"] = traceback.format_exc(limit=-6)
        row = store.row_path(job.run_id)
        kept = (row, store.checkpoint_path(job.run_id))
        paths = [path for path in Path(folder).rglob("*") if path.is_file() and path not in kept and path.name != CHECKSUMS]
        return {**result, "files": {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}}
