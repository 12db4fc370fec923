"""Callbacks: what is called while jobs run. Imports no torch."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

    from vpbench.planning.expected_time import PastRuns, Work
    from vpbench.planning.plan import Plan, PlannedRun
    from vpbench.training.fit import Epoch


class Callback:
    """Base class of callbacks; does nothing. Several runs may be under way at once."""

    def planned(self, plan: Plan, limit: int | None) -> None:
        """Called before the first run of a plan, of which at most ``limit`` missing runs are done; a search has several."""

    def expecting(self, works: Mapping[str, Work], past: PastRuns) -> None:
        """Called after ``planned`` when something is to be done: by run id, what the time of each run depends on, with those
        that follow later; and what earlier runs took."""

    def preparing(self, dataset: str, done: int, total: int) -> None:
        """``done`` of ``total`` images of a data set are decoded."""

    def started(self, run: PlannedRun) -> None:
        """Called once per run, before its first epoch."""

    def epoch(self, run: PlannedRun, epoch: Epoch) -> None:
        """Called after every epoch of a run."""

    def finished(self, run: PlannedRun, row: dict[str, Any]) -> None:
        """Called once per run, when its row is stored."""

    def found(self, run: PlannedRun, row: dict[str, Any]) -> None:
        """Called once per run whose row another command has stored meanwhile; otherwise than as any other run, if at all."""
        self.started(run)
        self.finished(run, row)

    def note(self, text: str) -> None:
        """One sentence for the user: a worker died and its run is retried, another command has some runs, ..."""

    def tested_on_noise(self, row: dict[Hashable, Any], accuracies: pd.DataFrame) -> None:
        """Called once per stored model that was tested on noisy images; see ``vpbench.analysis.noise.evaluate_noise``."""

    def tested_on_corruptions(self, row: dict[Hashable, Any], accuracies: pd.DataFrame) -> None:
        """Called once per stored model that was tested on corrupted images; see
        ``vpbench.analysis.robustness.evaluate_corruptions``."""
