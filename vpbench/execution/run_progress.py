"""Progress on the terminal or in a notebook: one bar for all runs, one for each run under way, one line per finished run."""

from __future__ import annotations

import time
from collections.abc import Hashable, Mapping
from typing import TYPE_CHECKING, Any

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Column
from rich.text import Text

from vpbench.core.counting import Lines
from vpbench.core.names import counted
from vpbench.core.notebook_bar import NotebookBar
from vpbench.core.terminal import Terminal
from vpbench.execution.callbacks import Callback
from vpbench.execution.time_left import TimeLeft
from vpbench.planning.expected_time import PastRuns, Work, format_duration
from vpbench.tasks import task_class

if TYPE_CHECKING:
    import pandas as pd

    from vpbench.planning.plan import Plan, PlannedRun
    from vpbench.training.fit import Epoch


BAR_WIDTH = 16  # of 80 columns; numbers and times take 34


class _Name(TextColumn):
    """What a bar is about, cut where there is no room for it and the numbers."""

    def __init__(self) -> None:
        super().__init__("{task.description}", markup=False, table_column=Column())

    def render(self, task: Task) -> Text:
        text = super().render(task)
        text.no_wrap, text.overflow = True, "ellipsis"
        return text


class _Remaining(TimeRemainingColumn):
    """The time until ``ends`` of a task, on the clock ``time.monotonic``; rich's estimate where it has none."""

    def render(self, task: Task) -> Text:
        if (ends := task.fields.get("ends")) is None:
            return super().render(task)
        minutes, seconds = divmod(max(0, round(ends - time.monotonic())), 60)
        hours, minutes = divmod(minutes, 60)
        return Text(f"{hours}:{minutes:02d}:{seconds:02d}", style="progress.remaining")


def _bars(console: Terminal) -> Progress:
    """Bars whose numbers and times are whole on 80 columns; none in a log, which has lines alone."""
    spinner, count, elapsed, word, remaining = (Column(no_wrap=True) for _ in range(5))
    return Progress(
        SpinnerColumn(table_column=spinner), _Name(), BarColumn(BAR_WIDTH), MofNCompleteColumn(table_column=count),
        TimeElapsedColumn(table_column=elapsed), TextColumn("ETA", table_column=word), _Remaining(table_column=remaining),
        console=console, transient=True, disable=not console.is_terminal,
    )  # fmt: skip


class RunProgress(Callback):
    """A callback that draws on stderr, so that stdout stays free for results.

    Attributes:
        done: how many runs of the present plan have finished, and of the rounds of a search before it.
        fresh: their ids.
        by_others: how many of these another command has done meanwhile.
        left_over: how many of its missing runs are not to be done, because of ``limit``.
    """

    def __init__(self) -> None:
        self._console = Terminal(stderr=True)
        self._lines = Lines(self._console)
        self._progress = _bars(self._console)
        self.done = self.by_others = self.left_over = self._total = 0
        self.limit: int | None = None
        self.fresh: set[str] = set()
        self._names_backbone = False
        self._in_notebook: NotebookBar | None = None
        self._all = self._progress.add_task("all runs", total=None, visible=False)
        self._decoding = self._progress.add_task("", total=None, visible=False)
        self._runs: dict[str, TaskID] = {}
        self._since: dict[str, float] = {}  # when runs under way have begun
        self._at_once = 1  # how many have been under way together
        self._goes_on = False  # whether the next plan is a later round of a search
        self._tells = False  # whether the first run that begins is the time for saying what all will take
        self._time: TimeLeft | None = None

    def __enter__(self) -> RunProgress:
        self._progress.start()
        if self._console.is_jupyter:
            self._in_notebook = NotebookBar()
        return self

    def __exit__(self, *_error: object) -> None:
        self._progress.stop()

    def planned(self, plan: Plan, limit: int | None) -> None:
        missing = len(plan.missing)
        now, self.limit = missing if limit is None else min(missing, limit), limit
        self.left_over = missing - now
        if not self._goes_on:
            self.done = self.by_others = 0
            self._progress.reset(self._all, ends=None)
        self._total = self.done + now + len(plan.later)
        self._progress.update(self._all, total=self._total, visible=True)
        self._names_backbone = len({run.spec.backbone.name for run in plan.runs}) > 1
        if stored := len(plan.runs) - missing:
            follow = f"; {counted(len(plan.later), 'later run')} will follow" if plan.later else ""
            self._console.print(f"{stored} of {len(plan.runs)} runs are stored already{follow}.")
        self._time, self._tells, self._goes_on = None, self._is_log and not self._goes_on, bool(plan.later)

    def expecting(self, works: Mapping[str, Work], past: PastRuns) -> None:
        self._time = TimeLeft(works, past)

    def preparing(self, dataset: str, done: int, total: int) -> None:
        self._progress.update(
            self._decoding, description=f"decoding {dataset}", completed=done, total=total, visible=done < total
        )
        if done < total:
            self._log(f"decoding {dataset}: {done} of {total}")

    def started(self, run: PlannedRun) -> None:
        self._tell()
        self._runs[run.spec.run_id] = self._progress.add_task(self._label(run), total=run.spec.recipe.epochs)
        self._since[run.spec.run_id] = time.monotonic()
        self._at_once = max(self._at_once, len(self._since))

    def _tell(self) -> None:
        """What all runs will take, in a log; not before the data could be read."""
        if self._tells and self._time is not None and (seconds := self._time.seconds()) is not None:
            runs = counted(self._total, "run")
            self._console.print(f"{runs} left, by past rows about {format_duration(seconds)}, one after the other.")
        self._tells = False

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
        left = self._left_after(run, row)
        ends = None if left is None else time.monotonic() + left
        self._progress.update(self._all, completed=self.done, ends=ends)
        self._show_in_notebook("runs")
        if (bar := self._runs.pop(run.spec.run_id, None)) is not None:
            self._progress.remove_task(bar)
        if row["status"] != "ok":
            outcome = row["status"]
        elif run.spec.stage == "search":
            outcome = f"{row['val_score']:5.1f} % on validation"
        else:
            outcome = f"{row['score']:5.1f} % {task_class(run.spec.task.name).metric_title}"
        more = f", about {format_duration(left)} left" if left and left >= 1 and self._is_log else ""
        self._console.print(f"[{self.done}/{self._total}] {self._label(run)}: {outcome}, {how}{more}", soft_wrap=True)

    def _left_after(self, run: PlannedRun, row: dict[str, Any]) -> float | None:
        """Seconds that the rest takes with as many runs at a time as there have been, now that a run has ended."""
        self._since.pop(run.spec.run_id, None)
        if self._time is None:
            return None
        self._time.ended(run.spec.run_id, row["wall_s"] if row["status"] == "ok" else None)
        now = time.monotonic()
        seconds = self._time.seconds({run_id: now - since for run_id, since in self._since.items()})
        return None if seconds is None else seconds / self._at_once

    def _label(self, run: PlannedRun) -> str:
        """What a run is called, with its backbone where there are several."""
        return f"{run.spec.label} ({run.spec.backbone.name})" if self._names_backbone else run.spec.label

    def _show_in_notebook(self, text: str) -> None:
        if self._in_notebook is not None:
            self._in_notebook.show(self.done, self._total, text)

    def _log(self, line: str) -> None:
        """A line now and then where there are no bars."""
        if self._is_log:
            self._lines.show(line)

    @property
    def _is_log(self) -> bool:
        """Whether there are no bars."""
        return not (self._console.is_terminal or self._console.is_jupyter)

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
