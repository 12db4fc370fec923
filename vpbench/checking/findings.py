"""The findings of a comparison of rows with a baseline."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Check = Literal["same", "losses", "accuracy", "cost"]


@dataclass(frozen=True)
class Finding:
    """A number outside of what is allowed."""

    method: str
    dataset: str
    column: str
    baseline: str
    now: str
    allowed: str
    fails: bool = True


@dataclass(frozen=True)
class CellCheck:
    """One kind of check of one cell: what it found, or why it was skipped."""

    method: str
    dataset: str
    check: Check
    findings: tuple[Finding, ...] = ()
    skipped: str = ""


@dataclass(frozen=True)
class Accuracy:
    """Accuracies of a cell: mean and standard deviation of the baseline's seeds, mean of now, and what is allowed. Percent."""

    method: str
    dataset: str
    mean: float
    std: float
    seeds: int
    now: float
    low: float
    high: float


@dataclass(frozen=True)
class Comparison:
    """All that was compared.

    Attributes:
        checks: up to four for each cell.
        accuracies: one for each cell whose accuracy could be compared.
        notes: on the comparison itself.
        false_alarm: bound on the chance of an alarm from the accuracies of an unchanged vpbench, over the whole grid.
        cell_alarm: the same of a single cell.
    """

    checks: tuple[CellCheck, ...]
    accuracies: tuple[Accuracy, ...]
    notes: tuple[str, ...]
    false_alarm: float
    cell_alarm: float

    @property
    def findings(self) -> list[Finding]:
        return [finding for check in self.checks for finding in check.findings]

    @property
    def failures(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.fails]

    @property
    def cells(self) -> int:
        return len({(check.method, check.dataset) for check in self.checks})
