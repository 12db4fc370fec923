"""What runs jobs: one small interface, and the executors by name. Imports no torch."""

from __future__ import annotations

import inspect
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol

from vpbench.core.errors import StoppedError, UsageError
from vpbench.core.names import unknown

if TYPE_CHECKING:
    from vpbench.execution.job import Job
    from vpbench.execution.plan import PlannedRun
    from vpbench.store.folder import Store
    from vpbench.training.fit import Epoch

# Module and class of each executor. A module is imported when its executor is asked for, since it may need an extra.
EXECUTORS = {
    "inline": ("vpbench.execution.inline", "Inline"),
    "local": ("vpbench.execution.local.executor", "Local"),
    "ray": ("vpbench.execution.ray.executor", "RayExecutor"),
    "slurm": ("vpbench.execution.slurm.executor", "SlurmExecutor"),
}

# The library that an executor needs, which the extra ``vpbench[NAME]`` installs.
LIBRARIES = {"ray": "ray", "slurm": "submitit"}

SAME_SIGTERM_S = 2.0  # a second one within this time is the first, passed on by another process

STOPPED = "stopped by SIGTERM; finished runs are stored, and those under way go on from their checkpoints with the same command."


class Watcher(Protocol):
    """Hears what happens while jobs run. Several runs may be under way at once."""

    def preparing(self, dataset: str, done: int, total: int) -> None: ...

    def started(self, run: PlannedRun) -> None: ...

    def epoch(self, run: PlannedRun, epoch: Epoch) -> None: ...

    def finished(self, run: PlannedRun, row: dict[str, Any]) -> None: ...

    def note(self, text: str) -> None:
        """One sentence for the user: a worker died and its run is repeated, another command has some runs, ..."""


class Silent:
    """A watcher that says nothing; a base for those that say something."""

    def preparing(self, dataset: str, done: int, total: int) -> None:
        pass

    def started(self, run: PlannedRun) -> None:
        pass

    def epoch(self, run: PlannedRun, epoch: Epoch) -> None:
        pass

    def finished(self, run: PlannedRun, row: dict[str, Any]) -> None:
        pass

    def note(self, text: str) -> None:
        pass


class Executor(Protocol):
    """Runs jobs somewhere and yields their finished rows, in any order.

    A row is in ``store`` when it is yielded. A run that ends badly is a row, too (status ``failed``, ``oom``, ``timeout``);
    an error that no run is to blame for (a full disk, weights that cannot be read) is raised and ends the grid.
    ``watcher.started`` and ``watcher.finished`` are called once per run. Closing the iterator, or an exception in it, stops
    whatever still runs.
    """

    def __call__(self, jobs: Sequence[Job], store: Store, watcher: Watcher) -> Iterator[dict[str, Any]]: ...

    def drain(self) -> None:
        """Start nothing more; what runs may finish, and then the iterator ends. Called from a signal handler: only set a flag."""

    def pause(self) -> None:
        """As :meth:`drain`, but what runs is left at its step, with a checkpoint where the executor can have one."""


class Drainable:
    """The flags behind :meth:`Executor.drain` and :meth:`Executor.pause`."""

    draining = pausing = False
    elsewhere = False  # whether runs may be on other machines, whose devices are not known here

    def drain(self) -> None:
        self.draining = True

    def pause(self) -> None:
        self.draining = self.pausing = True


def import_for(name: str, module: str) -> Any:
    """A module that belongs to the executor ``name``.

    Raises:
        UsageError: when the library that it needs is not installed.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if error.name == LIBRARIES.get(name):
            raise UsageError(f"--executor {name} needs an extra: pip install 'vpbench[{name}]'.") from error
        raise


def get_executor(name: str, **options: Any) -> Executor:
    """The executor ``name``, made with ``options``, the arguments of its class.

    Raises:
        UsageError: for an unknown name or option, or when the library that the executor needs is not installed.
    """
    if name not in EXECUTORS:
        raise unknown("executor", name, EXECUTORS)
    module, kind = EXECUTORS[name]
    maker: Callable[..., Executor] = getattr(import_for(name, module), kind)
    known = list(inspect.signature(maker).parameters)
    for option in options:
        if option not in known:
            raise unknown(f"option of the executor {name}", option, known)
    return maker(**options)


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
def stopped_by_signals(executor: Executor, watcher: Watcher) -> Iterator[None]:
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
            watcher.note("Interrupted: runs under way are finished, nothing more is started. Ctrl-C again stops at once.")
        else:
            executor.pause()
            watcher.note("Asked to stop (SIGTERM): runs under way are left at their step, nothing more is started.")

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
