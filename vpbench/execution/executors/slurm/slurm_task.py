"""What Slurm runs."""

from __future__ import annotations

import signal
import socket
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from submitit.core.utils import DelayedSubmission

from vpbench.core.errors import VpbenchError
from vpbench.execution.callbacks import Callback
from vpbench.execution.job import Job, row_since
from vpbench.execution.opened_data import OpenedData
from vpbench.execution.run_job import run_unclaimed_job
from vpbench.execution.run_log import run_log
from vpbench.store.store import Store
from vpbench.training.checkpoint import Paused


class SlurmTask:
    """Jobs, one after the other. Those that have a row since they were planned are skipped, so that a requeued task resumes."""

    def __init__(self, jobs: Sequence[Job], folder: Path) -> None:
        self.jobs = [job.model_dump_json() for job in jobs]
        self.folder = str(folder)

    def __call__(self) -> dict[str, str]:
        """Nothing, or ``error`` (a class of ``vpbench.core.errors``) and ``text`` for an error that concerns all runs."""
        store, place, opened = Store(self.folder), f"slurm, {socket.gethostname()}", OpenedData()
        try:
            for text in self.jobs:
                job = Job.model_validate_json(text)
                if row_since(job, store) is None:
                    self._do(job, store, place, opened)
        except VpbenchError as error:
            return {"error": type(error).__name__, "text": f"{error} (On node {socket.gethostname()}.)"}
        return {}

    def _do(self, job: Job, store: Store, place: str, opened: OpenedData) -> None:
        with run_log(store, job, place), _PauseOnSignal() as signals:
            with suppress(Paused):
                run_unclaimed_job(job, store, place, opened, _Printing(), signals.received)
            signals.end()

    def checkpoint(self) -> DelayedSubmission:
        """Called by submitit when the task is preempted or its time is up, before it is requeued."""
        return DelayedSubmission(self)


class _Printing(Callback):
    """A task's callback, for the run's log."""

    def note(self, text: str) -> None:
        sys.stderr.write(f"{text}\n")


class _PauseOnSignal:
    """In the block, the signals that submitit handles pause the run, with a checkpoint. What submitit would have done comes
    after that: the preemption signal puts the task back into the queue; at SIGTERM, which Slurm sends before it kills,
    submitit does nothing, and the task ends here."""

    def __enter__(self) -> _PauseOnSignal:
        self._signal: int | None = None
        known = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
        self._theirs: dict[int, Callable[[int, Any], Any]] = {
            number: handler for number in known if callable(handler := signal.getsignal(number))
        }
        for number in self._theirs:
            signal.signal(number, self._ask)
        return self

    def _ask(self, number: int, _: object) -> None:
        self._signal = number

    def received(self) -> bool:
        return self._signal is not None

    def end(self) -> None:
        """End the process, if it was asked to."""
        if self._signal is not None:
            self._theirs[self._signal](self._signal, None)
            sys.exit(128 + self._signal)

    def __exit__(self, *_: object) -> None:
        for number, handler in self._theirs.items():
            signal.signal(number, handler)
