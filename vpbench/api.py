"""The Python interface, which the command line is a thin layer over."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from vpbench.core.errors import UsageError
from vpbench.core.names import unknown
from vpbench.core.torch_state import own_torch_state
from vpbench.spec.budget import Budget
from vpbench.spec.flag import keywords_of, option_keys
from vpbench.spec.recipe import Recipe
from vpbench.spec.request import Request
from vpbench.spec.run_options import RunOptions
from vpbench.store.store import DEFAULT_FOLDER, Store

if TYPE_CHECKING:
    import pandas as pd

    from vpbench.execution.callbacks import Callback
    from vpbench.execution.executor import Executor
    from vpbench.planning.plan import Plan, ResolvedRequest
    from vpbench.search.outcomes import Outcomes
    from vpbench.search.search_plan import SearchPlan

Function = TypeVar("Function", bound=Callable[..., Any])


def names_first(function: Function) -> Function:
    """A decorator for a function of a request, and a budget behind it: mistyped names are errors before torch is imported.

    Raises:
        UsageError: for a name that nothing has.
    """

    @functools.wraps(function)
    def checked(request: Request, *others: Any, **named: Any) -> Any:
        from vpbench.planning.check_names import check_names

        for budget in (each for each in (*others, *named.values()) if isinstance(each, Budget)):
            from vpbench.search.space import read_space

            read_space(budget.space)
        check_names(request)
        return function(request, *others, **named)

    return cast(Function, checked)


@keywords_of(Request, RunOptions)
def run(
    methods: Sequence[str] | str | None = None,
    suite: str | None = None,
    *,
    results: str | Path = DEFAULT_FOLDER,
    callback: Callback | None = None,
    progress: bool | None = None,
    executor: str | Executor | None = None,
    **fields: Any,
) -> pd.DataFrame:
    """Train and measure every method on every data set, skipping what is stored, and return the rows.

    Args:
        methods: names, each with an optional preset (``"insvp:released"``), as a list or separated by commas; None: those
            of the suite's card.
        suite: which data sets and protocol; ``"mini"`` needs nothing but vpbench itself.
        results: folder of the rows.
        callback: is called as runs proceed.
        progress: whether bars and a line per finished run are shown, on stderr or in the notebook; None: where a person
            watches, a terminal or a notebook, and no callback is given.
        executor: where runs happen: ``inline`` (this process), ``local``, ``ray`` or ``slurm``, or one with its options from
            ``vpbench.execution.executor.get_executor``, such as ``get_executor("local", workers=2)``.
        fields: of :class:`~vpbench.spec.request.Request` and :class:`~vpbench.spec.run_options.RunOptions`, listed below: what
            to run, and how. Options are written ``settings={"vpt.prompt_length": 50, "recipe.lr": 0.01}``, times are seconds,
            ``noise=(0, 0.1)`` are standard deviations with pixels in 0 ... 1, and ``wise_ft=(0, 0.5, 1)`` are shares. What is
            tested further (``test_on``, ``wise_ft``) becomes rows of the stage ``shift`` in the store, which are not returned.

    Returns:
        one row per run of the request, old and new, see ``vpbench.store.schema``.

    Raises:
        VpbenchError: when something in the request cannot work; nothing has been run then.
    """
    given = {**fields, "methods": methods, "suite": suite}
    if executor is None or isinstance(executor, str):
        given, executor = {**given, "executor": executor}, None
    request, options = _models("run", given, Request, RunOptions)
    with _shown(callback, progress) as shown:
        return run_request(request, options, results, shown, executor)


@keywords_of(Request, Budget, RunOptions)
def tune(
    methods: Sequence[str] | str | None = None,
    suite: str | None = None,
    *,
    results: str | Path = DEFAULT_FOLDER,
    callback: Callback | None = None,
    progress: bool | None = None,
    executor: str | Executor | None = None,
    **fields: Any,
) -> Outcomes:
    """Search settings on validation images, with the same budget for every method on every data set; then run what wins.

    Args:
        methods, suite, results, callback, progress, executor: as in :func:`run`.
        fields: of :class:`~vpbench.spec.request.Request`, :class:`~vpbench.spec.budget.Budget` and
            :class:`~vpbench.spec.run_options.RunOptions`; ``seeds`` are the final runs of each winner.

    Returns:
        the outcome of each method on each data set: ``study``, ``trials``, ``best`` and the rows ``finals``; a table when
        it is printed or shown in a notebook.

    Raises:
        VpbenchError: when something in the request cannot work; nothing has been run then.
        UnfinishedError: when some runs have no row yet, because of ``limit`` or since another process works on them.
    """
    given = {**fields, "methods": methods, "suite": suite}
    if executor is None or isinstance(executor, str):
        given, executor = {**given, "executor": executor}, None
    request, budget, options = _models("tune", given, Request, Budget, RunOptions)
    request = request.model_copy(update={"seeds": 1})  # those of the final runs are the budget's
    with _shown(callback, progress) as shown:
        return tune_request(request, budget, options, results, shown, executor)


def _models(function: str, given: dict[str, Any], *kinds: type[Any]) -> list[Any]:
    """One model of each kind from the keywords that a user has given.

    Raises:
        UsageError: for a name that none of them has, with a suggestion.
    """
    known, options = {name for kind in kinds for name in kind.model_fields}, option_keys(*kinds)
    for name in given:
        if name not in known and name in options:  # as the command line and an experiment file have it
            raise UsageError(f"unknown argument of vpbench.{function} '{name}'. Did you mean '{options[name]}'?")
        if name not in known:
            hint = f"For the recipe write settings={{'recipe.{name}': ...}}." if name in Recipe.model_fields else ""
            raise unknown(f"argument of vpbench.{function}", name, known, hint)
    fields = [{name: value for name, value in given.items() if name in kind.model_fields} for kind in kinds]
    return [kind.from_keywords(**own) for kind, own in zip(kinds, fields)]


@contextmanager
def _shown(callback: Callback | None, progress: bool | None) -> Iterator[Callback]:
    """The callback to use: the user's, or the display of progress.

    Raises:
        UsageError: when both are asked for.
    """
    from vpbench.core.terminal import is_watched
    from vpbench.execution.callbacks import Callback
    from vpbench.execution.run_progress import RunProgress

    if callback is not None and progress:
        raise UsageError("callback and progress=True exclude each other: call vpbench.execution.run_progress from your own.")
    if callback is None and (is_watched() if progress is None else progress):
        with RunProgress() as display:
            yield display
    else:
        yield callback or Callback()


@names_first
@own_torch_state()
def run_request(
    request: Request, options: RunOptions, results: str | Path = DEFAULT_FOLDER, callback: Callback | None = None,
    executor: Executor | None = None,
) -> pd.DataFrame:  # fmt: skip
    """:func:`run` with its arguments as models, for ``vpbench run``."""
    from vpbench.analysis.retest import retest
    from vpbench.analysis.shift import Shifts
    from vpbench.execution.callbacks import Callback
    from vpbench.execution.execute_plan import execute_plan
    from vpbench.execution.executor import make_executor

    store, callback, executor = Store(results), callback or Callback(), executor or make_executor(options)
    elsewhere = Shifts.asked(request, options)
    options = elsewhere.options
    plan = plan_request(request, options, results, callback, executor)
    elsewhere.check(plan, store)
    _note_untracked(plan, options, callback)
    frame = execute_plan(plan, store, options, callback, executor)
    retest(plan, store, frame, options, callback)
    for line in elsewhere.tested(plan, store, frame):
        callback.note(line)
    if options.scales:
        from vpbench.analysis.scales import multi_scale_notes

        for note in multi_scale_notes(plan, store, frame, options.scales):
            callback.note(note)
    return frame


@names_first
@own_torch_state()
def plan_request(
    request: Request, options: RunOptions, results: str | Path = DEFAULT_FOLDER, callback: Callback | None = None,
    executor: Executor | None = None, *, without_data: bool = False,
) -> Plan:  # fmt: skip
    """The plan that :func:`run_request` would execute: checked, and nothing of it run.

    Args:
        without_data: whether data sets that are not there are counted by their cards; such a plan cannot be executed.

    Raises:
        VpbenchError: when something in the request cannot work.
    """
    from vpbench.analysis.retest import check_options, check_plan
    from vpbench.execution.executor import make_executor
    from vpbench.execution.tracker import check_trackers
    from vpbench.planning.plan import plan_runs

    (executor or make_executor(options)).check_device(request.device)
    check_trackers(options.track)
    check_options(options)
    plan = plan_runs(request, options, Store(results), without_data=without_data)
    check_plan(plan, options)
    if options.scales:
        from vpbench.analysis.scales import check_plan as check_scales

        check_scales(plan, options.scales)
    _note_data(plan, callback)
    for warning in dict.fromkeys(run.warning for run in plan.runs if run.warning):
        if callback is not None:
            callback.note(f"warning: {warning}")
    _note_seeds(request, sorted({run.spec.seed for run in plan.runs}), callback)
    return plan


def expected_seconds(plan: Plan, store: Store, options: RunOptions) -> dict[str, float | None]:
    """How long each missing run of a plan will take by past rows, by run id; None where there are no rows of similar runs."""
    from vpbench.execution.execute_plan import make_jobs
    from vpbench.planning.expected_time import Work, past_runs

    past = past_runs(store)
    return {job.run_id: past.seconds(Work.of(job)) for job in make_jobs(plan, store, options)}


@names_first
@own_torch_state()
def tune_request(
    request: Request, budget: Budget, options: RunOptions, results: str | Path = DEFAULT_FOLDER,
    callback: Callback | None = None, executor: Executor | None = None,
) -> Outcomes:  # fmt: skip
    """Search settings on validation images, then run what wins, for ``vpbench tune``. Arguments are as in :func:`run_request`.

    Returns:
        the outcome of each method on each data set.

    Raises:
        VpbenchError: when something in the request cannot work; nothing has been run then.
        UnfinishedError: when some runs have no row yet, because of ``options.limit`` or since another process works on them.
    """
    from vpbench.execution.callbacks import Callback
    from vpbench.execution.executor import make_executor
    from vpbench.search.run_search import execute_search

    callback, executor = callback or Callback(), executor or make_executor(options)
    plan = plan_tuning(request, budget, options, results, callback, executor)
    callback.note(plan.summary())
    return execute_search(plan, Store(results), options, callback, executor)


@names_first
@own_torch_state()
def plan_tuning(
    request: Request, budget: Budget, options: RunOptions, results: str | Path = DEFAULT_FOLDER,
    callback: Callback | None = None, executor: Executor | None = None, *, without_data: bool = False,
) -> SearchPlan:  # fmt: skip
    """The plan that :func:`tune_request` would execute: checked, and nothing of it run.

    Args:
        without_data: as in :func:`plan_request`.

    Raises:
        VpbenchError: when something in the request or the space cannot work, or only a later vpbench can read the rows there.
    """
    from vpbench.execution.executor import make_executor
    from vpbench.execution.tracker import check_trackers
    from vpbench.search.search_plan import plan_search

    (executor or make_executor(options)).check_device(request.device)
    check_trackers(options.track)
    plan = plan_search(request, budget, without_data=without_data)
    Store(results).statuses()
    _note_data(plan.trials, callback)
    _note_seeds(request, plan.seeds, callback)
    return plan


def _note_data(planned: Plan | ResolvedRequest, callback: Callback | None) -> None:
    """What users should know of their data sets."""
    for name, raw in planned.data.items():
        if callback is not None and raw.remarks:
            callback.note(f"note on {name}: {raw.remarks}")


def _note_untracked(plan: Plan, options: RunOptions, callback: Callback) -> None:
    """That trackers receive nothing of runs that are stored already."""
    if options.track and (stored := len(plan.runs) - len(plan.missing)):
        runs = "1 run is" if stored == 1 else f"{stored} runs are"
        callback.note(
            f"{runs} stored already, and not reported to {', '.join(options.track)}; --rerun all repeats what is stored."
        )


def _note_seeds(request: Request, seeds: Sequence[int], callback: Callback | None) -> None:
    """Which seeds several are, and which of them are none of the suite's."""
    from vpbench.planning.check_names import suite_of

    name, suite = suite_of(request)
    own = suite.seeds
    listed = ", ".join(map(str, own))
    if callback is not None and (more := [str(seed) for seed in seeds if seed not in own]):
        callback.note(f"suite {name} has the seeds {listed}; beyond them these are taken: {', '.join(more)}.")
    elif callback is not None and len(seeds) > 1:
        used = ", ".join(map(str, seeds))
        callback.note(f"seeds {used}: the first {len(seeds)} of the suite {name}, whose list is {listed}.")
