"""The Python interface, which the command line is a thin layer over."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from vpbench.core.names import unknown
from vpbench.spec.flag import keywords_of
from vpbench.spec.request import Request
from vpbench.spec.run_options import RunOptions
from vpbench.store.store import DEFAULT_FOLDER, Store

if TYPE_CHECKING:
    import pandas as pd

    from vpbench.execution.callbacks import Callback
    from vpbench.execution.executor import Executor
    from vpbench.models.prompted import PromptedModel
    from vpbench.planning.plan import Plan, ResolvedRequest
    from vpbench.search.search_plan import Outcome, SearchPlan
    from vpbench.spec.budget import Budget


@keywords_of(Request, RunOptions)
def run(
    methods: Sequence[str] | str | None = None,
    suite: str | None = None,
    *,
    results: str | Path = DEFAULT_FOLDER,
    callback: Callback | None = None,
    executor: str | Executor | None = None,
    **fields: Any,
) -> pd.DataFrame:
    """Train and measure every method on every data set, skipping what is stored, and return the rows.

    Args:
        methods: names, each with an optional preset (``"insvp:released"``), as a list or separated by commas; None: all six of
            vpbench.
        suite: which data sets and protocol; ``"mini"`` needs nothing but vpbench itself.
        results: folder of the rows.
        callback: is called as runs proceed.
        executor: where runs happen: ``inline`` (this process), ``local``, ``ray`` or ``slurm``, or one with its options from
            ``vpbench.execution.executor.get_executor``, such as ``get_executor("local", workers=2)``.
        fields: of :class:`~vpbench.spec.request.Request` and :class:`~vpbench.spec.run_options.RunOptions`, listed below: what
            to run, and how. Options are written ``settings={"vpt.prompt_length": 50, "recipe.lr": 0.01}``, times are seconds,
            and ``noise=(0, 0.1)`` are standard deviations with pixels in 0 ... 1.

    Returns:
        one row per run of the request, old and new, see ``vpbench.store.schema``.

    Raises:
        VpbenchError: when something in the request cannot work; nothing has been run then.
    """
    values = {**fields, "methods": methods, "suite": suite}
    if executor is None or isinstance(executor, str):
        values, executor = {**values, "executor": executor}, None
    known = {**Request.model_fields, **RunOptions.model_fields}
    for name in values:
        if name not in known:
            raise unknown("argument of vpbench.run", name, known)
    request = Request.from_keywords(**{name: value for name, value in values.items() if name in Request.model_fields})
    options = RunOptions.from_keywords(**{name: value for name, value in values.items() if name in RunOptions.model_fields})
    return run_request(request, options, results, callback, executor)


def run_request(
    request: Request, options: RunOptions, results: str | Path = DEFAULT_FOLDER, callback: Callback | None = None,
    executor: Executor | None = None,
) -> pd.DataFrame:  # fmt: skip
    """:func:`run` with its arguments as models, for ``vpbench run``."""
    from vpbench.execution.callbacks import Callback
    from vpbench.execution.execute_plan import execute_plan
    from vpbench.execution.executor import make_executor

    store, callback, executor = Store(results), callback or Callback(), executor or make_executor(options)
    if options.noise:
        from vpbench.analysis.noise import check_sigmas

        check_sigmas(options.noise)  # a mistake in them is an error before anything is trained
    plan = plan_request(request, options, results, callback, executor)
    frame = execute_plan(plan, store, options, callback, executor)
    for row, accuracies in noisy_accuracies(plan, store, frame, options.noise) if options.noise else ():
        callback.tested_on_noise(row, accuracies)
    return frame


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
    from vpbench.execution.executor import make_executor
    from vpbench.planning.plan import plan_runs

    (executor or make_executor(options)).check_device(request.device)
    plan = plan_runs(request, options, Store(results), without_data=without_data)
    _note_data(plan, callback)
    return plan


def expected_seconds(plan: Plan, store: Store, options: RunOptions) -> dict[str, float | None]:
    """How long each missing run of a plan will take by past rows, by run id; None where there are no rows of similar runs."""
    from vpbench.execution.execute_plan import make_jobs
    from vpbench.execution.expected_time import Work, past_runs

    past = past_runs(store)
    return {job.run_id: past.seconds(Work.of(job)) for job in make_jobs(plan, store, options)}


def tune(
    request: Request, budget: Budget, options: RunOptions, results: str | Path = DEFAULT_FOLDER,
    callback: Callback | None = None, executor: Executor | None = None,
) -> list[Outcome]:  # fmt: skip
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


def plan_tuning(
    request: Request, budget: Budget, options: RunOptions, results: str | Path = DEFAULT_FOLDER,
    callback: Callback | None = None, executor: Executor | None = None, *, without_data: bool = False,
) -> SearchPlan:  # fmt: skip
    """The plan that :func:`tune` would execute: checked, and nothing of it run. ``without_data`` is as in :func:`plan_request`.

    Raises:
        VpbenchError: when something in the request or the space cannot work, or only a later vpbench can read the rows there.
    """
    from vpbench.execution.executor import make_executor
    from vpbench.search.search_plan import plan_search

    (executor or make_executor(options)).check_device(request.device)
    plan = plan_search(request, budget, without_data=without_data)
    Store(results).statuses()
    _note_data(plan.trials, callback)
    return plan


def _note_data(planned: Plan | ResolvedRequest, callback: Callback | None) -> None:
    """What users should know of their data sets."""
    for name, raw in planned.data.items():
        if callback is not None and raw.remarks:
            callback.note(f"note on {name}: {raw.remarks}")


def noisy_accuracies(
    plan: Plan, store: Store, rows: pd.DataFrame, sigmas: Sequence[float]
) -> Iterator[tuple[dict[Hashable, Any], pd.DataFrame]]:
    """Test the stored models of a plan on noisy images, one after the other in this process, and train nothing.

    Args:
        rows: of the plan; those that are not ok are skipped.
        sigmas: standard deviations, with pixels in 0 ... 1.

    Yields:
        a row, and what :func:`vpbench.analysis.noise.evaluate_noise` returns for it.
    """
    from vpbench.analysis.noise import evaluate_noise

    specs = {run.spec.run_id: run.spec for run in plan.runs}
    for row in rows[rows["status"] == "ok"].to_dict("records"):
        spec = specs[row["run_id"]]
        data = plan.data[spec.data.dataset]
        yield row, evaluate_noise(row, store, sigmas, plan.request.device, data, spec.backbone)


def load_results(folder: str | Path = DEFAULT_FOLDER, columns: Sequence[str] | None = None) -> pd.DataFrame:
    """All rows of a results folder, one per run; an empty frame with all columns when there are none.

    Args:
        columns: the only ones to read, which is quicker with many rows; None for all.
    """
    return Store(folder).load(columns)


def create_method(
    method: str,
    backbone: str,
    classes: int,
    *,
    weights: str | Path | None = None,
    image_size: int | None = None,
    seed: int | None = None,
    **options: Any,
) -> PromptedModel:
    """A frozen backbone with a method on it: a torch module from normalised images to logits.

    Only the trainable tensors require gradients. ``model.backbone.shape`` has the sizes.

    Args:
        method: ``name`` or ``name:preset``.
        backbone: a name of ``vpbench list backbones``, or any ViT or Swin of timm.
        classes: number of classes.
        weights: None for the backbone's own, ``"random"``, or a file or folder.
        image_size: pixels; None for the size of pretraining.
        seed: of the method's initial values; None takes torch's current random state.
        options: of the method, e.g. ``prompt_length=10``.

    Raises:
        VpbenchError: for an unknown name, an option that does not fit, or missing weights.
    """
    import torch

    from vpbench.backbones.named import resolve_backbone
    from vpbench.models.build import build_model
    from vpbench.models.registry import resolve_method

    spec = resolve_backbone(backbone, str(weights) if weights else None, image_size)
    chosen = resolve_method(method, options)
    if seed is not None:
        torch.manual_seed(seed)
    return build_model(chosen, spec, classes)


def report(
    table: str | int | None = None,
    plot: str | None = None,
    *,
    results: str | Path = DEFAULT_FOLDER,
    format: Literal["terminal", "md", "tex", "csv", "json", "html"] = "terminal",
    out: str | Path | None = None,
    **filters: Any,
) -> str | list[Path]:
    """Render a table (as text) or a figure (as files) from a results folder; see ``vpbench report --help``."""
    from vpbench.reporting.make_report import make_report

    return make_report(
        table=None if table is None else str(table), plot=plot, results=Path(results), format=format,
        out=Path(out) if out else None, **filters,
    )  # fmt: skip


def show(kind: str, name: str, results: str | Path = DEFAULT_FOLDER) -> dict[str, Any]:
    """Everything about one method, dataset, suite, backbone or run, as plain data."""
    from vpbench.reporting.describe import describe

    return describe(kind, name, Path(results))
