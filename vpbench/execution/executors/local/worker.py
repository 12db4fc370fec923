"""A worker process, as its parent sees it."""

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
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from vpbench.execution.dispatch import GRACE_S, QueuedJob
from vpbench.execution.executors.local.slots import Slot

IDLE_END_S = 2.0  # for a worker without work to end by itself
LOOK_S = 0.3  # for a hung worker to write its stack

# Messages of workers, in order; None when a worker's output has ended.
Messages = queue.SimpleQueue[tuple["Worker", dict[str, Any] | None]]


class Worker:
    """A process in a slot, and what it is doing.

    Attributes:
        ready: whether it has come up.
        current: the job that it does; None when it is idle.
        began: when it got the job, or when the run started.
        environment: columns of its machine, once it has sent them.
        timed_out: whether it was killed because its run took too long.
    """

    def __init__(self, slot: Slot, results: Path, messages: Messages) -> None:
        self.slot = slot
        self.ready = self.timed_out = False
        self.current: QueuedJob | None = None
        self.began: datetime | None = None
        self.environment: dict[str, Any] = {}
        self._deadline = float("inf")
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the worker
        self._process = subprocess.Popen(
            [sys.executable, "-u", "-P", "-m", "vpbench.execution.executors.local.serve", str(results), slot.name],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors,
            env={**os.environ, **slot.environment, "PYTHONPATH": os.pathsep.join(entry or str(Path.cwd()) for entry in sys.path)},
            # A group of its own: Ctrl-C on the terminal reaches this process alone, and a kill reaches the worker's children.
            process_group=0 if os.name == "posix" else None,
        )  # fmt: skip
        threading.Thread(target=self._listen, args=(messages,), daemon=True).start()

    def _listen(self, messages: Messages) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with suppress(ValueError):  # the last line of a worker that was killed may be cut off
                messages.put((self, json.loads(line)))
        messages.put((self, None))

    def assign(self, queued: QueuedJob) -> None:
        """Let it do a job."""
        job = queued.job if queued.job.threads else queued.job.model_copy(update={"threads": self.slot.threads})
        self.current, self.timed_out = queued, False
        self.extend()
        assert self._process.stdin is not None
        with suppress(OSError):  # the end of its output shows that a worker is dead
            self._process.stdin.write(job.model_dump_json().encode() + b"\n")
            self._process.stdin.flush()

    def extend(self) -> None:
        """The run's time begins now: decoding images and starting are not part of it."""
        self.began = datetime.now(UTC)
        limit = self.current and self.current.job.timeout_s
        self._deadline = time.monotonic() + limit + GRACE_S if limit else float("inf")

    def kill_if_overdue(self) -> None:
        if self.current is None or time.monotonic() <= self._deadline:
            return
        self.timed_out, self._deadline = True, float("inf")
        if hasattr(signal, "SIGUSR1"):
            with suppress(OSError):
                self._process.send_signal(signal.SIGUSR1)  # it writes its stack to its log
            time.sleep(LOOK_S)
        self._end()

    def pause(self) -> None:
        """Ask it to pause its run, with a checkpoint; it answers with a message."""
        with suppress(OSError):
            self._process.terminate()

    def dismiss(self) -> None:
        """A worker without work ends when its input does."""
        assert self._process.stdin is not None
        with suppress(OSError):
            self._process.stdin.close()

    def kill(self) -> None:
        """Whatever state it is in; an idle one that has been dismissed gets a moment to end by itself."""
        self.dismiss()
        if self.current is None and self.ready:
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=IDLE_END_S)
        self._end()
        self._process.wait()
        self._errors.close()

    def exit_description(self) -> str:
        """How its process ended; waits for the end."""
        code = self._process.wait()
        if code >= 0:
            return f"ended with exit code {code}"
        name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
        return f"was killed ({name})" + (", perhaps because the machine ran out of memory" if name == "SIGKILL" else "")

    def last_line(self) -> str:
        """The last line that it printed outside of a run's log."""
        with suppress(OSError, ValueError):
            self._errors.seek(0)
            if lines := self._errors.read().decode(errors="replace").strip().splitlines():
                return lines[-1]
        return "it printed nothing"

    def _end(self) -> None:
        """Kill it and its children."""
        with suppress(OSError):
            if os.name == "posix":
                os.killpg(self._process.pid, signal.SIGKILL)
            else:
                self._process.kill()
