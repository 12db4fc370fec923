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
    from vpbench.execution.opened_data import OpenedData
    from vpbench.spec.run_options import RunOptions
    from vpbench.store.store import Store

WORKER_OPTIONS = ("workers", "gpus", "per_gpu", "retries")  # fields of RunOptions that are arguments of executors
SAME_SIGTERM_S = 2.0  # a second one within this time is the first, passed on by another process

STOPPED = "stopped by SIGTERM; finished runs are stored, and the same command resumes the others from their checkpoints."


class Executor:
    """Base class of executors: runs jobs somewhere and yields their rows, in any order.

    An executor is a module or package of ``vpbench.execution.executors``, or an entry point of the group
    ``vpbench.executors``; its name is the name for ``--executor``, and the arguments of its class are its options.

    A row is in ``store`` when it is yielded. A run that ends badly is a row, too (status ``failed``, ``oom``, ``timeout``);
    an error that concerns all runs (a full disk, weights that cannot be read) is raised and ends the call.
    ``callback.started`` and ``callback.finished`` are called once per run. Closing the iterator, or an exception in it, stops
    whatever still runs.

    Attributes:
        draining: start nothing more; what runs may finish, and then the iterator ends.
        pausing: as ``draining``, and what runs stops after its current step, with a checkpoint where one can be written.
        is_remote: whether runs may be on other machines, whose devices are not known here.
    """

    draining = pausing = False
    is_remote = False

    def __call__(self, jobs: Sequence[Job], store: Store, callback: Callback, opened: OpenedData) -> Iterator[dict[str, Any]]:
        """Run the jobs.

        Args:
            jobs: what to run.
            store: receives the rows.
            callback: is called as runs proceed; several may be under way at once.
            opened: the data sets that this process has open, for runs in this process.
        """
        raise NotImplementedError

    def check_device(self, name: str) -> None:
        """
        Raises:
            UsageError: when the device ``name`` (auto, cpu, cuda) cannot be had where the runs will be.
        """
        from vpbench.spec.device import resolve_device

        if not self.is_remote:
            resolve_device(name)

    def drain(self) -> None:
        """Set ``draining``. Called from a signal handler."""
        self.draining = True

    def pause(self) -> None:
        """Set ``draining`` and ``pausing``. Called from a signal handler."""
        self.draining = self.pausing = True


def executor_registry() -> Registry[type[Executor]]:
    """Every module or package of ``vpbench.execution.executors``, every file in ``executors`` of the user's folders, and the
    entry points of the group ``vpbench.executors``."""
    own = "vpbench.execution.executors"
    return Registry("executor", own, subclass_in(Executor), group="vpbench.executors", folder="executors")


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


def make_executor(options: RunOptions) -> Executor:
    """The executor that the options name; without a name, ``local`` if an option of worker processes is set, else ``inline``.

    Raises:
        UsageError: for an executor or an option that does not exist, or a value that does not fit.
    """
    given = {name: getattr(options, name) for name in WORKER_OPTIONS}
    own = {name: value for name, value in given.items() if value is not None}
    name = options.executor or ("local" if own else "inline")
    if name == "inline" and own:
        option = next(iter(own)).replace("_", "-")
        raise UsageError(f"--{option} is nothing for --executor inline, which has no worker processes; say --executor local.")
    return get_executor(name, **own, **options.executor_options)


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
    """In the block, Ctrl-C lets what runs finish and starts nothing more, and SIGTERM pauses what runs, with a checkpoint. The
    second signal of a kind stops at once (KeyboardInterrupt, StoppedError); but one SIGTERM may arrive twice, from a scheduler
    and passed on by a shell.

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
            callback.note("Asked to stop (SIGTERM): runs under way write a checkpoint and stop, nothing more is started.")

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
