"""Progress of a grid on the terminal: one bar for the grid, one for the run, one line per finished run."""

from __future__ import annotations

import time
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from vpbench.execution.plan import Plan, PlannedRun
from vpbench.training.fit import Epoch


class GridProgress:
    """A watcher (see ``vpbench.execution.inline.Watcher``) that draws on stderr, so that stdout stays for results."""

    def __init__(self, plan: Plan) -> None:
        self._console = Console(stderr=True)
        self._progress = Progress(
            SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
            TextColumn("ETA"), TimeRemainingColumn(), console=self._console, transient=True,
            disable=not self._console.is_terminal,  # a bar in a log is noise; its lines stay
        )  # fmt: skip
        self._total, self._done = len(plan.missing), 0
        self._grid = self._progress.add_task("all runs", total=self._total)
        self._run = self._progress.add_task("", total=None, visible=False)
        self._started = time.perf_counter()
        if stored := len(plan.runs) - self._total:
            self._console.print(f"{stored} of {len(plan.runs)} runs are stored already.", highlight=False)

    def __enter__(self) -> GridProgress:
        self._progress.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._progress.stop()

    def preparing(self, dataset: str, done: int, total: int) -> None:
        self._progress.update(self._run, description=f"decoding {dataset}", completed=done, total=total, visible=True)

    def started(self, run: PlannedRun) -> None:
        self._progress.reset(self._run, description=_name(run), total=run.spec.recipe.epochs, visible=True)

    def epoch(self, run: PlannedRun, epoch: Epoch) -> None:
        if epoch.epoch == 1:
            self._progress.reset(self._run, description=f"{_name(run)}, {epoch.phase}", total=epoch.epochs)
        self._progress.update(self._run, completed=epoch.epoch)

    def finished(self, run: PlannedRun, row: dict[str, Any]) -> None:
        self._done += 1
        self._progress.update(self._grid, completed=self._done)
        self._progress.update(self._run, visible=False)
        outcome = f"{row['acc1']:5.1f} % top-1" if row["status"] == "ok" else row["status"]
        self._console.print(
            f"[{self._done}/{self._total}] {_name(run)}: {outcome}, {row['wall_s']:.0f} s", highlight=False, markup=False
        )


def _name(run: PlannedRun) -> str:
    return f"{run.spec.method.label} on {run.spec.data.dataset}, seed {run.spec.seed}"
