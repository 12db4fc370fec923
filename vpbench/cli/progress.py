"""Progress of a grid on the terminal: one bar for the grid, one for each run under way, one line per finished run."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from vpbench.planning.plan import Plan, PlannedRun
from vpbench.training.fit import Epoch


class GridProgress:
    """A callback (see ``vpbench.execution.executors.Callback``) that draws on stderr, so that stdout stays for results.

    Args:
        plan: what is asked for.
        limit: at most so many of the missing runs are done.

    ``done`` is how many have finished.
    """

    def __init__(self, plan: Plan, limit: int | None = None) -> None:
        self._console = Console(stderr=True)
        self._progress = Progress(
            SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
            TextColumn("ETA"), TimeRemainingColumn(), console=self._console, transient=True,
            disable=not self._console.is_terminal,  # a bar in a log is noise; its lines stay
        )  # fmt: skip
        missing = len(plan.missing)
        self._total, self.done = min(missing, missing if limit is None else limit), 0
        self._grid = self._progress.add_task("all runs", total=self._total)
        self._decoding = self._progress.add_task("", total=None, visible=False)
        self._runs: dict[str, TaskID] = {}
        if stored := len(plan.runs) - missing:
            self._console.print(f"{stored} of {len(plan.runs)} runs are stored already.", highlight=False)

    def __enter__(self) -> GridProgress:
        self._progress.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._progress.stop()

    def preparing(self, dataset: str, done: int, total: int) -> None:
        self._progress.update(
            self._decoding, description=f"decoding {dataset}", completed=done, total=total, visible=done < total
        )

    def started(self, run: PlannedRun) -> None:
        self._runs[run.spec.run_id] = self._progress.add_task(run.spec.label, total=run.spec.recipe.epochs)

    def epoch(self, run: PlannedRun, epoch: Epoch) -> None:
        bar = self._runs[run.spec.run_id]
        if epoch.epoch == 1:
            self._progress.reset(bar, description=f"{run.spec.label}, {epoch.phase}", total=epoch.epochs)
        self._progress.update(bar, completed=epoch.epoch)

    def finished(self, run: PlannedRun, row: dict[str, Any]) -> None:
        self.done += 1
        self._progress.update(self._grid, completed=self.done)
        if (bar := self._runs.pop(run.spec.run_id, None)) is not None:
            self._progress.remove_task(bar)
        if row["status"] != "ok":
            outcome = row["status"]
        elif run.spec.stage == "search":
            outcome = f"{row['val_acc1']:5.1f} % on validation"
        else:
            outcome = f"{row['acc1']:5.1f} % top-1"
        self._console.print(
            f"[{self.done}/{self._total}] {run.spec.label}: {outcome}, {row['wall_s']:.0f} s",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )

    def note(self, text: str) -> None:
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)
