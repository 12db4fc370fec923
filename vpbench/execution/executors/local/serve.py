"""A worker process of the executor ``local``: ``python -m vpbench.execution.executors.local.serve FOLDER PLACE``.

Reads one job per line from stdin and answers on stdout, one JSON object per line. Whatever else the process prints while
it does a job goes to the run's log. When stdin ends, the parent has no more work or is dead, and the process ends at once.
SIGTERM leaves the run at its step, with a checkpoint, and ends the process.
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

if TYPE_CHECKING:
    from vpbench.execution.job import Job
    from vpbench.planning.plan import PlannedRun
    from vpbench.store.store import Store
    from vpbench.training.fit import Epoch

TELL_S = 0.2  # between two words on the decoding of images


class Teller:
    """A callback that tells the parent."""

    def __init__(self, descriptor: int) -> None:
        self._stream = os.fdopen(descriptor, "w", encoding="utf-8")
        self._told = 0.0

    def say(self, kind: str, **content: Any) -> None:
        line = json.dumps({"kind": kind, **content}, default=_plain)
        try:
            self._stream.write(line + "\n")
            self._stream.flush()
        except OSError:
            os._exit(1)  # nobody listens any more

    def preparing(self, dataset: str, done: int, total: int) -> None:
        if done == total or time.monotonic() - self._told > TELL_S:
            self._told = time.monotonic()
            self.say("preparing", dataset=dataset, done=done, total=total)

    def started(self, run: PlannedRun) -> None:
        self.say("started")

    def epoch(self, run: PlannedRun, epoch: Epoch) -> None:
        self.say("epoch", epoch=asdict(epoch))

    def finished(self, run: PlannedRun, row: dict[str, Any]) -> None:
        pass  # said when the claim is given back

    def note(self, text: str) -> None:
        self.say("note", text=text)


def _plain(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime) else value.item()


def main() -> None:
    """Work until stdin ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business
    stop = Stop()
    signal.signal(signal.SIGTERM, stop)
    teller = Teller(os.dup(1))
    os.dup2(2, 1)
    faulthandler.enable()
    if hasattr(faulthandler, "register"):
        faulthandler.register(signal.SIGUSR1, all_threads=True)  # the parent asks a hung worker where it is
    jobs: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(jobs,), daemon=True).start()

    from vpbench.execution.job import Job
    from vpbench.execution.run_log import run_log
    from vpbench.spec.device import describe, resolve_device
    from vpbench.store.store import Store

    store, place = Store(sys.argv[1]), sys.argv[2]
    teller.say("ready")
    while True:
        stop.idle = True
        job = Job.model_validate_json(jobs.get())
        stop.idle = False
        teller.say("environment", columns=describe(resolve_device(job.device)))
        with run_log(store, job, place):
            answer = _do(job, store, teller, place, stop)
        teller.say(**answer)  # the parent may end this process as soon as it has heard it
        if stop.asked:
            os._exit(0)


class Stop:
    """The handler of SIGTERM: an idle process ends at once, another one where its run can be left."""

    idle = asked = False

    def __call__(self, *_: object) -> None:
        self.asked = True
        if self.idle:
            os._exit(0)


def _listen(jobs: queue.SimpleQueue[str]) -> None:
    for line in sys.stdin:
        jobs.put(line)
    os._exit(0)


def _do(job: Job, store: Store, teller: Teller, place: str, stop: Stop) -> dict[str, Any]:
    """Do a job if nobody else does or has done it; what the parent is to be told in the end."""
    from vpbench.core.errors import VpbenchError
    from vpbench.execution.executor import about_claim
    from vpbench.execution.job import prepare_data, row_since, run_prepared
    from vpbench.training.checkpoint import Paused

    try:
        data = prepare_data(job, store, teller)
        with store.claims.claim(job.run_id, **about_claim(job, place)) as ours:
            if not ours:
                return {"kind": "elsewhere"}
            row = row_since(job, store) or run_prepared(job, data, store, teller, lambda: stop.asked)
    except Paused:
        return {"kind": "paused"}
    except VpbenchError as error:
        return {"kind": "error", "type": type(error).__name__, "text": str(error)}
    except Exception:
        traceback.print_exc()
        return {"kind": "crashed", "text": traceback.format_exc(limit=-6)}
    if row["error"]:
        sys.stderr.write(f"{row['error']}\n")
    return {"kind": "finished", "row": row}


if __name__ == "__main__":
    main()
