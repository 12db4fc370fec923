"""How long the runs of a command that is at work still take, more exactly with every run that ends. Imports no torch."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from statistics import mean
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vpbench.planning.expected_time import PastRuns, Work

OVERDUE = 0.1  # of the time that a run has taken beyond what was expected, it is taken to need so much more


class TimeLeft:
    """Seconds of the runs that are left: by this command's runs of the method, else by past rows, else by all its runs.

    Args:
        works: what the time of each run depends on, by run id.
        past: what earlier runs took.
    """

    def __init__(self, works: Mapping[str, Work], past: PastRuns) -> None:
        self._left = dict(works)
        seconds = {work: past.seconds(work) for work in set(works.values())}
        self._past = {work: each for work, each in seconds.items() if each is not None}
        self._taken: dict[tuple[str, str], float] = defaultdict(float)
        self._amount: dict[tuple[str, str], float] = defaultdict(float)

    def ended(self, run_id: str, seconds: float | None) -> None:
        """A run needs no more time; ``seconds`` is what it took, None where that tells nothing of others."""
        work = self._left.pop(run_id, None)
        if work is not None and seconds is not None:
            self._taken[_kind(work)] += seconds
            self._amount[_kind(work)] += _amount(work)

    def seconds(self, under_way: Mapping[str, float] | None = None) -> float | None:
        """Of all that is left, one run after the other; None when nothing tells.

        Args:
            under_way: by run id, for how many seconds a run has been under way.
        """
        expected = {run_id: self._of(work) for run_id, work in self._left.items()}
        known = [each for each in expected.values() if each is not None]
        if not known:
            return None
        usual = mean(known)
        seconds = {run_id: usual if each is None else each for run_id, each in expected.items()}
        for run_id, taken in (under_way or {}).items():
            if run_id in seconds:
                seconds[run_id] = max(seconds[run_id] - taken, OVERDUE * taken)
        return sum(seconds.values())

    def _of(self, work: Work) -> float | None:
        if own := self._amount.get(_kind(work)):
            return self._taken[_kind(work)] / own * _amount(work)
        if work in self._past:
            return self._past[work]
        every = sum(self._amount.values())
        return sum(self._taken.values()) / every * _amount(work) if every else None


def _kind(work: Work) -> tuple[str, str]:
    return work.backbone, work.method


def _amount(work: Work) -> float:
    """Pixels that are trained on, where their number is known."""
    return work.images * float(work.image_size or 1) ** 2
