"""A worker process of the executor ``local``: ``python -m vpbench.execution.executors.local.serve FOLDER PLACE``.

Reads one job per line from stdin and answers on stdout, one JSON object per line. Whatever else the process prints while
it does a job goes to the run's log. When stdin ends, the parent has no more work or is dead, and the process ends at once.
SIGTERM pauses the run, with a checkpoint, and ends the process.
"""

from __future__ import annotations

import faulthandler
import json
import os
import queue
import signal
import sys
import threading
import time
import traceback
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Any

from vpbench.execution.callbacks import Callback

if TYPE_CHECKING:
    from vpbench.execution.job import Job
    from vpbench.execution.opened_data import OpenedData
    from vpbench.planning.plan import PlannedRun
    from vpbench.store.store import Store
    from vpbench.training.fit import Epoch

PROGRESS_S = 0.2  # between two messages on the decoding of images


class MessageCallback(Callback):
    """A callback that sends messages to the parent process."""

    def __init__(self, descriptor: int) -> None:
        self._stream = os.fdopen(descriptor, "w", encoding="utf-8")
        self._sent = 0.0
        self.was_found = False

    def send(self, kind: str, **content: Any) -> None:
        line = json.dumps({"kind": kind, **content}, default=_plain)
        try:
            self._stream.write(line + "\n")
            self._stream.flush()
        except OSError:
            os._exit(1)  # the parent is gone

    def preparing(self, dataset: str, done: int, total: int) -> None:
        if done == total or time.monotonic() - self._sent > PROGRESS_S:
            self._sent = time.monotonic()
            self.send("preparing", dataset=dataset, done=done, total=total)

    def started(self, run: PlannedRun) -> None:
        self.send("started")

    def epoch(self, run: PlannedRun, epoch: Epoch) -> None:
        self.send("epoch", epoch=asdict(epoch))

    def found(self, run: PlannedRun, row: dict[str, Any]) -> None:
        self.was_found = True  # sent with the row

    def note(self, text: str) -> None:
        self.send("note", text=text)


def _plain(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime) else value.item()


def main() -> None:
    """Work until stdin ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C
    stop = Stop()
    signal.signal(signal.SIGTERM, stop)
    callback = MessageCallback(os.dup(1))
    os.dup2(2, 1)
    faulthandler.enable()
    if hasattr(faulthandler, "register"):
        faulthandler.register(signal.SIGUSR1, all_threads=True)  # the parent asks a hung worker for its stack
    jobs: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(jobs,), daemon=True).start()

    from vpbench.execution.job import Job
    from vpbench.execution.opened_data import OpenedData
    from vpbench.execution.run_log import run_log
    from vpbench.spec.device import describe, resolve_device
    from vpbench.store.store import Store

    store, place, opened = Store(sys.argv[1]), sys.argv[2], OpenedData()
    callback.send("ready")
    while True:
        stop.idle = True
        job = Job.model_validate_json(jobs.get())
        stop.idle = False
        callback.send("environment", columns=describe(resolve_device(job.device)))
        with run_log(store, job, place):
            answer = _do(job, store, place, opened, callback, stop)
        callback.send(**answer)  # the parent may end this process as soon as it has read it
        if stop.asked:
            os._exit(0)


class Stop:
    """The handler of SIGTERM: an idle process ends at once, another one when its run is paused."""

    idle = asked = False

    def __call__(self, *_: object) -> None:
        self.asked = True
        if self.idle:
            os._exit(0)


def _listen(jobs: queue.SimpleQueue[str]) -> None:
    for line in sys.stdin:
        jobs.put(line)
    os._exit(0)


def _do(job: Job, store: Store, place: str, opened: OpenedData, callback: MessageCallback, stop: Stop) -> dict[str, Any]:
    """Do a job unless another process does; the last message to the parent about it."""
    from vpbench.core.errors import VpbenchError
    from vpbench.execution.run_job import run_unclaimed_job
    from vpbench.training.checkpoint import Paused

    callback.was_found = False
    try:
        row = run_unclaimed_job(job, store, place, opened, callback, lambda: stop.asked)
    except Paused:
        return {"kind": "paused"}
    except VpbenchError as error:
        return {"kind": "error", "type": type(error).__name__, "text": str(error)}
    except Exception:
        traceback.print_exc()
        return {"kind": "crashed", "text": traceback.format_exc(limit=-6)}
    if row is None:
        return {"kind": "claimed"}
    if row["error"]:
        sys.stderr.write(f"{row['error']}\n")
    return {"kind": "found" if callback.was_found else "finished", "row": row}


if __name__ == "__main__":
    main()
