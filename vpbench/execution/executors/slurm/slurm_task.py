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
from vpbench.execution.executor import about_claim
from vpbench.execution.job import Job, prepare_data, row_since, run_prepared
from vpbench.execution.run_log import run_log
from vpbench.store.store import Store
from vpbench.training.checkpoint import Paused


class Task:
    """Jobs, one after the other. Those that have a row since they were planned are skipped, so that a
    task which was requeued goes on where it was."""

    def __init__(self, jobs: Sequence[Job], folder: Path) -> None:
        self.jobs = [job.model_dump_json() for job in jobs]
        self.folder = str(folder)

    def __call__(self) -> dict[str, str]:
        """Nothing, or ``error`` (a class of ``vpbench.core.errors``) and ``text`` for what no run is to blame for."""
        store, place = Store(self.folder), f"slurm, {socket.gethostname()}"
        try:
            for text in self.jobs:
                job = Job.model_validate_json(text)
                if row_since(job, store) is None:
                    self._do(job, store, place)
        except VpbenchError as error:
            return {"error": type(error).__name__, "text": f"{error} (On node {socket.gethostname()}.)"}
        return {}

    def _do(self, job: Job, store: Store, place: str) -> None:
        with run_log(store, job, place), _Leaving() as leaving:
            with suppress(Paused):
                data = prepare_data(job, store, Callback())
                with store.claims.claim(job.run_id, **about_claim(job, place)) as ours:
                    if ours and row_since(job, store) is None:
                        run_prepared(job, data, store, _Printing(), leaving.asked)
            leaving.end()

    def checkpoint(self) -> DelayedSubmission:
        """Called by submitit when the task is preempted or its time is up, before it is requeued."""
        return DelayedSubmission(self)


class _Printing(Callback):
    """A task's callback, for the run's log."""

    def note(self, text: str) -> None:
        sys.stderr.write(f"{text}\n")


class _Leaving:
    """In the block, the signals that submitit takes ask for the run to be left at its step. What submitit would have done
    comes after that: the preemption signal puts the task back into the queue; at SIGTERM, which Slurm sends before it kills,
    submitit does nothing, and the task ends here."""

    def __enter__(self) -> _Leaving:
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

    def asked(self) -> bool:
        return self._signal is not None

    def end(self) -> None:
        """End the process, if it was asked to."""
        if self._signal is not None:
            self._theirs[self._signal](self._signal, None)
            sys.exit(128 + self._signal)

    def __exit__(self, *_: object) -> None:
        for number, handler in self._theirs.items():
            signal.signal(number, handler)
