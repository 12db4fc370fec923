"""A run that is reported to trackers."""

from __future__ import annotations

import inspect
import io
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any

from vpbench.core.errors import StoppedError
from vpbench.core.plugins import place_of
from vpbench.core.torch_state import own_torch_state
from vpbench.execution.callbacks import Callback
from vpbench.execution.job import Job
from vpbench.execution.opened_data import OpenedData
from vpbench.execution.tracker import FOLDER, TrackedRun, Tracker, tracker_registry
from vpbench.planning.plan import PlannedRun
from vpbench.training.fit import Epoch


class TrackedCallback(Callback):
    """Passes a run's epochs and its row on to ``callback``, and then to the trackers that the job names.

    Args:
        job: of the run.
        callback: of the executor.
        opened: of this process; it remembers the trackers that have failed, which are left alone from then on.
        resumed: whether an earlier process has begun the run.
    """

    def __init__(self, job: Job, callback: Callback, opened: OpenedData, resumed: bool) -> None:
        self._callback, self._opened = callback, opened
        self._trackers: dict[str, Tracker] = {}
        self._files: dict[str, Path] = {}  # that define them
        for name in job.track:
            if name not in opened.failed_trackers:
                self._guarded(name, partial(self._start, name, job, resumed))

    def _start(self, name: str, job: Job, resumed: bool) -> None:
        results = Path(job.results)
        if not results.is_dir():
            raise OSError(f"the results folder {results} is not on {socket.gethostname()}, and its files lie there")
        spec = job.spec
        run = TrackedRun(spec.run_id, spec.group_id, spec.label, spec.identity(), results / FOLDER / name, resumed)
        tracker = tracker_registry().get(name)
        self._files[name] = Path(inspect.getfile(tracker))
        self._trackers[name] = tracker(run)

    def epoch(self, run: PlannedRun, epoch: Epoch) -> None:
        self._callback.epoch(run, epoch)
        phase = epoch.phase
        values = {f"{phase}/loss": epoch.train_loss, f"{phase}/lr": epoch.lr, f"{phase}/val_acc1": epoch.val_acc1}
        known = {name: value for name, value in values.items() if value is not None}
        self._each(lambda tracker: tracker.log(epoch.epoch, known))

    def finished(self, run: PlannedRun, row: dict[str, Any]) -> None:
        self._each(lambda tracker: tracker.finish(row))
        self._trackers.clear()
        self._callback.finished(run, row)

    def note(self, text: str) -> None:
        self._callback.note(text)

    def stop(self) -> None:
        """The run ends here; those that know its row already are not called again."""
        self._each(lambda tracker: tracker.stop())
        self._trackers.clear()

    def _each(self, call: Callable[[Tracker], None]) -> None:
        for name, tracker in list(self._trackers.items()):
            self._guarded(name, partial(call, tracker))

    def _guarded(self, name: str, call: Callable[[], None]) -> None:
        """Calls a tracker, whose errors are one warning."""
        try:
            with _quiet(), own_torch_state():  # so that it can neither print into results nor change random numbers
                call()
        except StoppedError:  # of a signal handler
            raise
        except (Exception, SystemExit) as error:
            self._trackers.pop(name, None)
            self._opened.failed_trackers.add(name)
            place = f"{place_of(self._files[name], error)}: " if name in self._files else ""
            reason = f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]
            self._callback.note(
                f"warning: the tracker {name} has failed; nothing more is reported to it, and the runs go on ({place}{reason})."
            )


@contextmanager
def _quiet() -> Iterator[None]:
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        yield
