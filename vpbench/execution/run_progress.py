"""Progress on the terminal or in a notebook: one bar for all runs, one for each run under way, one line per finished run."""

from __future__ import annotations

from collections.abc import Hashable
from typing import TYPE_CHECKING, Any

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

from vpbench.core.counting import Lines
from vpbench.core.notebook_bar import NotebookBar
from vpbench.core.terminal import Terminal
from vpbench.execution.callbacks import Callback
from vpbench.tasks import task_class

if TYPE_CHECKING:
    import pandas as pd

    from vpbench.planning.plan import Plan, PlannedRun
    from vpbench.training.fit import Epoch


class RunProgress(Callback):
    """A callback that draws on stderr, so that stdout stays free for results.

    Attributes:
        done: how many runs of the present plan have finished.
        fresh: their ids.
        by_others: how many of these another command has done meanwhile.
        left_over: how many of its missing runs are not to be done, because of ``limit``.
    """

    def __init__(self) -> None:
        self._console = Terminal(stderr=True)
        self._lines = Lines(self._console)
        self._progress = Progress(
            SpinnerColumn(), TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(),
            TimeElapsedColumn(), TextColumn("ETA"), TimeRemainingColumn(), console=self._console, transient=True,
            disable=not self._console.is_terminal,  # no bars in a log, only its lines
        )  # fmt: skip
        self.done = self.by_others = self.left_over = self._total = 0
        self.limit: int | None = None
        self.fresh: set[str] = set()
        self._names_backbone = False
        self._in_notebook: NotebookBar | None = None
        self._all = self._progress.add_task("all runs", total=None, visible=False)
        self._decoding = self._progress.add_task("", total=None, visible=False)
        self._runs: dict[str, TaskID] = {}

    def __enter__(self) -> RunProgress:
        self._progress.start()
        if self._console.is_jupyter:
            self._in_notebook = NotebookBar()
        return self

    def __exit__(self, *_error: object) -> None:
        self._progress.stop()

    def planned(self, plan: Plan, limit: int | None) -> None:
        missing = len(plan.missing)
        self.done, self.by_others, self.limit = 0, 0, limit
        self._total = missing if limit is None else min(missing, limit)
        self.left_over = missing - self._total
        self._names_backbone = len({run.spec.backbone.name for run in plan.runs}) > 1
        self._progress.reset(self._all, total=self._total, visible=True)
        if stored := len(plan.runs) - missing:
            self._console.print(f"{stored} of {len(plan.runs)} runs are stored already.")

    def preparing(self, dataset: str, done: int, total: int) -> None:
        self._progress.update(
            self._decoding, description=f"decoding {dataset}", completed=done, total=total, visible=done < total
        )
        if done < total:
            self._log(f"decoding {dataset}: {done} of {total}")

    def started(self, run: PlannedRun) -> None:
        self._runs[run.spec.run_id] = self._progress.add_task(self._label(run), total=run.spec.recipe.epochs)

    def epoch(self, run: PlannedRun, epoch: Epoch) -> None:
        bar = self._runs[run.spec.run_id]
        if epoch.epoch == 1:
            self._progress.reset(bar, description=f"{self._label(run)}, {epoch.phase}", total=epoch.epochs)
        self._progress.update(bar, completed=epoch.epoch)
        self._show_in_notebook(f"runs; {self._label(run)}, epoch {epoch.epoch} of {epoch.epochs}")
        if epoch.epoch < epoch.epochs:
            self._log(f"{self._label(run)}, {epoch.phase}: epoch {epoch.epoch} of {epoch.epochs}")

    def finished(self, run: PlannedRun, row: dict[str, Any]) -> None:
        self._ended(run, row, f"{row['wall_s']:.0f} s")

    def found(self, run: PlannedRun, row: dict[str, Any]) -> None:
        self.by_others += 1
        self._ended(run, row, "by another command")

    def _ended(self, run: PlannedRun, row: dict[str, Any], how: str) -> None:
        self.done += 1
        self.fresh.add(run.spec.run_id)
        self._progress.update(self._all, completed=self.done)
        self._show_in_notebook("runs")
        if (bar := self._runs.pop(run.spec.run_id, None)) is not None:
            self._progress.remove_task(bar)
        if row["status"] != "ok":
            outcome = row["status"]
        elif run.spec.stage == "search":
            outcome = f"{row['val_score']:5.1f} % on validation"
        else:
            outcome = f"{row['score']:5.1f} % {task_class(run.spec.task.name).metric_title}"
        self._console.print(f"[{self.done}/{self._total}] {self._label(run)}: {outcome}, {how}", soft_wrap=True)

    def _label(self, run: PlannedRun) -> str:
        """What a run is called, with its backbone where there are several."""
        return f"{run.spec.label} ({run.spec.backbone.name})" if self._names_backbone else run.spec.label

    def _show_in_notebook(self, text: str) -> None:
        if self._in_notebook is not None:
            self._in_notebook.show(self.done, self._total, text)

    def _log(self, line: str) -> None:
        """A line now and then where there are no bars."""
        if not (self._console.is_terminal or self._console.is_jupyter):
            self._lines.show(line)

    def note(self, text: str) -> None:
        self._console.print(text, soft_wrap=True)

    def tested_on_noise(self, row: dict[Hashable, Any], accuracies: pd.DataFrame) -> None:
        found = ", ".join(f"{acc1:.1f} at {sigma:g}" for sigma, acc1 in zip(accuracies["sigma"], accuracies["acc1"]))
        self.note(f"noise: {row['method']} on {row['dataset']}, seed {row['seed']}: {found}")

    def tested_on_corruptions(self, row: dict[Hashable, Any], accuracies: pd.DataFrame) -> None:
        from vpbench.analysis.robustness import mean_accuracy

        found = ", ".join(f"{acc1:.1f} {group}" for group, acc1 in mean_accuracy(accuracies).items())
        self.note(
            f"corruptions: {row['method']} on {row['dataset']}, seed {row['seed']}: {found or f'{len(accuracies)} accuracies'}"
        )
