"""Running a search: all trials, and then the final runs of their winners."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from vpbench.execution.callbacks import Callback
from vpbench.execution.execute_plan import execute_plan
from vpbench.execution.executor import Executor, make_executor
from vpbench.planning.expected_time import Work
from vpbench.planning.plan import PlannedRun, ResolvedRequest
from vpbench.search.later_runs import LaterRuns
from vpbench.search.outcomes import Outcomes
from vpbench.search.search_plan import Outcome, SearchPlan, play, round_plan, rows_of
from vpbench.search.study import winner
from vpbench.spec.run_options import RunOptions
from vpbench.store.artefacts import artefact_files
from vpbench.store.store import Store


def execute_search(
    plan: SearchPlan, store: Store, options: RunOptions, callback: Callback | None = None, executor: Executor | None = None
) -> Outcomes:
    """Run what is missing of all trials, and then of the final runs of their winners.

    Args:
        plan: from :func:`vpbench.search.search_plan.plan_search`.
        store: receives the rows.
        options: as for :func:`~vpbench.execution.execute_plan.execute_plan`; ``save`` is for final runs, ``limit`` for all.
        callback: is called as runs proceed; ``planned`` for every round of trials.
        executor: does the runs; None: the one that ``options`` name.

    Returns:
        the outcome of each method on each data set.

    Raises:
        UnfinishedError: when some runs have no row yet, because of ``limit`` or since another process works on them.
        KeyboardInterrupt: when Ctrl-C has kept some runs from being started.
    """
    executor = executor or make_executor(options)
    left = options.limit

    of_trials = options.model_copy(update={"save": ()})

    def run_round(
        runs: list[PlannedRun], resolved: ResolvedRequest = plan.trials, chosen: RunOptions = of_trials,
        follow: Sequence[Work] = (),
    ) -> dict[str, dict[str, Any]]:  # fmt: skip
        nonlocal left
        part = round_plan(runs, resolved, store, artefact_files(chosen.required), follow)
        if left is not None:
            part = replace(part, later=follow[: max(0, left - len(part.missing))])
        if part.missing and left != 0:
            execute_plan(part, store, chosen.model_copy(update={"limit": left}), callback, executor)
        if left is not None:
            left = max(0, left - len(part.missing))
        return rows_of(runs, store)

    later = LaterRuns(plan)
    trials = play(plan.studies, lambda runs: run_round(runs, follow=later.after(runs)))
    best = [winner(found) for found in trials]
    final = [
        [] if trial is None else plan.runs_with(study, trial.values) for study, trial in zip(plan.studies, best, strict=True)
    ]
    rows = run_round([run for runs in final for run in runs], plan.finals, options)
    return Outcomes(
        Outcome(study, found, trial, [rows[run.spec.run_id] for run in runs])
        for study, found, trial, runs in zip(plan.studies, trials, best, final, strict=True)
    )
