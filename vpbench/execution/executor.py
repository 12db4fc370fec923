"""The interface of an executor, and the executors by name. Imports no torch."""

from __future__ import annotations

import inspect
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from vpbench.core.errors import StoppedError, UsageError
from vpbench.core.names import unknown
from vpbench.core.plugins import Registry, subclass_in
from vpbench.execution.callbacks import Callback

if TYPE_CHECKING:
    from vpbench.execution.job import Job
    from vpbench.store.store import Store

SAME_SIGTERM_S = 2.0  # a second one within this time is the first, passed on by another process

STOPPED = "stopped by SIGTERM; finished runs are stored, and those under way go on from their checkpoints with the same command."


class Executor:
    """Base class of executors: runs jobs somewhere and yields their rows, in any order.

    A row is in ``store`` when it is yielded. A run that ends badly is a row, too (status ``failed``, ``oom``, ``timeout``);
    an error that no run is to blame for (a full disk, weights that cannot be read) is raised and ends the call.
    ``callback.started`` and ``callback.finished`` are called once per run. Closing the iterator, or an exception in it, stops
    whatever still runs.

    Attributes:
        draining: start nothing more; what runs may finish, and then the iterator ends.
        pausing: as ``draining``, and what runs stops at its step, with a checkpoint where the executor can write one.
        is_remote: whether runs may be on other machines, whose devices are not known here.
    """

    draining = pausing = False
    is_remote = False

    def __call__(self, jobs: Sequence[Job], store: Store, callback: Callback) -> Iterator[dict[str, Any]]:
        """Run the jobs."""
        raise NotImplementedError

    def drain(self) -> None:
        """Set ``draining``. Called from a signal handler."""
        self.draining = True

    def pause(self) -> None:
        """Set ``draining`` and ``pausing``. Called from a signal handler."""
        self.draining = self.pausing = True


def executor_registry() -> Registry[type[Executor]]:
    """Every module or package of ``vpbench.execution.executors``, and the entry points of the group ``vpbench.executors``."""
    return Registry("executor", "vpbench.execution.executors", subclass_in(Executor), group="vpbench.executors")


def get_executor(name: str, **options: Any) -> Executor:
    """The executor ``name``, made with ``options``, the arguments of its class.

    Raises:
        UsageError: for an unknown name or option, or when the library that the executor needs is not installed.
    """
    kind = executor_registry().get(name)
    known = list(inspect.signature(kind).parameters)
    for option in options:
        if option not in known:
            raise unknown(f"option of the executor {name}", option, known)
    return kind(**options)


def check_whole(option: str, value: object, least: int) -> None:
    """
    Raises:
        UsageError: when an executor's option is neither None nor a whole number of at least ``least``.
    """
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < least):
        raise UsageError(f"{option} {value}: take {least} or more, a whole number.")


def processors() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def waits_for(count: int) -> str:
    """The note on runs that another process has claimed."""
    return f"Another command is working on {count} of these runs; waiting for {'it' if count == 1 else 'them'}."


def about_claim(job: Job, place: str) -> dict[str, Any]:
    """What ``vpbench status`` shows of a run under way."""
    return {"label": job.label, "place": place, "since": datetime.now(UTC).isoformat(timespec="seconds")}


@contextmanager
def stopped_by_signals(executor: Executor, callback: Callback) -> Iterator[None]:
    """In the block, Ctrl-C lets what runs finish and starts nothing more, and SIGTERM leaves what runs at its step. The second
    signal of a kind stops at once (KeyboardInterrupt, StoppedError); but one SIGTERM may arrive twice, from a scheduler and
    passed on by a shell.

    Outside the main thread, where Python delivers no signals, the block is as any other.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    asked: dict[int, float] = {}

    def interrupt(number: int, _: object) -> None:
        if number in asked:
            if number == signal.SIGINT:
                raise KeyboardInterrupt
            if time.monotonic() > asked[number] + SAME_SIGTERM_S:
                raise StoppedError(STOPPED)
            return
        asked[number] = time.monotonic()
        if number == signal.SIGINT:
            executor.drain()
            callback.note("Interrupted: runs under way are finished, nothing more is started. Ctrl-C again stops at once.")
        else:
            executor.pause()
            callback.note("Asked to stop (SIGTERM): runs under way are left at their step, nothing more is started.")

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
