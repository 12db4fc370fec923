"""The runs of a search that are still to be named: their number and their work are known before what they try is."""

from __future__ import annotations

from collections import Counter

from vpbench.planning.expected_time import Work
from vpbench.planning.plan import PlannedRun, ResolvedRequest
from vpbench.search.search_plan import SearchPlan
from vpbench.spec.device import planned_device


class LaterRuns:
    """What follows a round of trials: further trials of searches that ask for few at a time, and the final runs.

    Args:
        plan: of all searches. The first point of the space stands for those that are not known yet.
    """

    def __init__(self, plan: SearchPlan) -> None:
        self._plan = plan
        self._asked: Counter[tuple[str, str, str]] = Counter()

    def after(self, runs: list[PlannedRun]) -> list[Work]:
        """Final runs first; call it once per round, with all its runs."""
        self._asked.update(_place(run) for run in runs if self._begins(run))
        finals, trials = list[Work](), list[Work]()
        for study in self._plan.studies:
            probe = self._plan.space.probes(study.method.partition(":")[0])[0]
            final, trial = self._plan.runs_with(study, probe, self._plan.seeds[:1])[0], study.trial(probe, None)
            finals += [_work(final, self._plan.finals)] * len(self._plan.seeds)
            trials += [_work(trial, self._plan.trials)] * max(0, study.search.trials - self._asked[_place(trial)])
        return finals + trials

    def _begins(self, run: PlannedRun) -> bool:
        """Whether it is the first run of a trial; with ``--prune`` that is the short one."""
        prune = self._plan.budget.prune
        return prune is None or run.spec.recipe.epochs == prune


def _place(run: PlannedRun) -> tuple[str, str, str]:
    return run.spec.method.label, run.spec.data.dataset, run.spec.backbone.name


def _work(run: PlannedRun, resolved: ResolvedRequest) -> Work:
    images = len(resolved.data[run.spec.data.dataset].splits["train"])
    return Work.of_run(run.spec, images, planned_device(resolved.request.device).type)
