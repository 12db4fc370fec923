"""The Python interface, which the command line is a thin layer over."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from vpbench.store.artefacts import artefact_files
from vpbench.store.store import DEFAULT_FOLDER, Store

if TYPE_CHECKING:
    import pandas as pd

    from vpbench.execution.callbacks import Callback
    from vpbench.execution.executor import Executor
    from vpbench.execution.job import Job
    from vpbench.models.prompted import PromptedModel
    from vpbench.planning.plan import Ground, Plan, PlannedRun, Request
    from vpbench.search.search_plan import Outcome, SearchPlan

CHECKPOINT_S = 600.0  # seconds between two checkpoints of a run
DEFAULT_SAVE = ("features", "predictions", "curve")


def run(
    methods: Sequence[str] | str | None = None,
    suite: str | None = None,
    *,
    data: str | Path | None = None,
    backbone: str | None = None,
    weights: str | Path | None = None,
    image_size: int | None = None,
    epochs: int | None = None,
    seeds: int = 1,
    settings: Mapping[str, Any] | None = None,
    device: str = "auto",
    results: str | Path = DEFAULT_FOLDER,
    save: Iterable[str] = DEFAULT_SAVE,
    callback: Callback | None = None,
    executor: str | Executor = "inline",
    threads: int | None = None,
    checkpoint_blocks: bool = False,
    timeout_s: float | None = None,
    checkpoint_s: float | None = CHECKPOINT_S,
    rerun: str | None = None,
    limit: int | None = None,
    noise: Sequence[float] | None = None,
    **more: Any,
) -> pd.DataFrame:
    """Train and measure every method on every data set, skipping what is stored, and return the rows.

    Args:
        methods: names, each with an optional preset (``"insvp:released"``), as a list or separated by commas; None: all
            six of vpbench.
        suite: which data sets and protocol; ``"mini"`` needs nothing but vpbench itself.
        data: an ImageFolder tree or a parquet file instead of a suite.
        backbone: a name of ``vpbench list backbones``, or any ViT or Swin of timm; None: the suite's.
        weights: None for the backbone's own, ``"random"``, or a file or folder.
        image_size: pixels; position embeddings are resampled.
        epochs: of every training, instead of the suite's.
        seeds: how many of the suite's seeds.
        settings: ``{"vpt.prompt_length": 50, "recipe.lr": 0.01}``.
        device: ``auto``, ``cpu`` or ``cuda``.
        results: folder of the rows.
        save: what to keep beside each row: ``features``, ``predictions``, ``curve``, ``weights``.
        callback: hears of progress.
        executor: where runs happen: ``inline`` (this process), ``local``, ``ray`` or ``slurm``, or one with its options from
            ``vpbench.execution.executor.get_executor``, such as ``get_executor("local", workers=2)``.
        threads: of torch on a CPU, in each process; None: torch's own choice, divided among local workers.
        checkpoint_blocks: compute the backbone's blocks again in the backward pass: less memory in training, longer steps, the
            same numbers; a stored row counts with it and without.
        timeout_s: seconds after which a run is given up.
        checkpoint_s: seconds between two checkpoints of a run; None writes one only when SIGTERM stops it.
        rerun: do stored runs again: ``failed`` (all that are not ok), ``stale`` (by another version of vpbench, torch or
            timm), or ``all``.
        limit: run no more than so many of the missing ones.
        noise: standard deviations, with pixels in 0 ... 1: test every model on such noisy images too, without training it again;
            ``noise.csv`` beside each row takes the accuracies. Keeps ``weights``.
        more: other fields of :class:`vpbench.planning.plan.Request`.

    Returns:
        one row per run of the request, old and new, see ``vpbench.store.schema``.

    Raises:
        VpbenchError: when something in the request cannot work; nothing has been run then.
    """
    from vpbench.planning.plan import DEFAULT_METHODS, Request

    chosen = [word.strip() for word in methods.split(",")] if isinstance(methods, str) else methods
    save = tuple(save)
    if noise is not None:
        from vpbench.analysis.noise import check_sigmas

        noise, save = check_sigmas(noise), tuple(dict.fromkeys([*save, "weights"]))
    request = Request(
        methods=DEFAULT_METHODS if chosen is None else tuple(chosen), suite=suite, data=str(data) if data else None,
        backbone=backbone, weights=str(weights) if weights else None, image_size=image_size, epochs=epochs, seeds=seeds,
        settings=settings or {}, device=device, **more,
    )  # fmt: skip
    plan, store = plan_runs(request, results, save, rerun)
    frame = execute_plan(
        plan, store, device, save, callback, executor=executor, data_root=request.data_root, threads=threads,
        checkpoint_blocks=checkpoint_blocks, timeout_s=timeout_s, checkpoint_s=checkpoint_s, limit=limit,
    )  # fmt: skip
    for _ in noisy_accuracies(plan, store, frame, noise or (), device):
        pass
    return frame


def plan_runs(
    request: Request, results: str | Path = DEFAULT_FOLDER, save: Iterable[str] = DEFAULT_SAVE, rerun: str | None = None
) -> tuple[Plan, Store]:
    """Check a request and find what is missing, without running anything; ``rerun`` is as in :func:`run`."""
    from dataclasses import replace

    from vpbench.planning.plan import make_plan
    from vpbench.planning.rerun import to_repeat

    wanted, store = artefact_files(save), Store(results)
    plan = make_plan(request, store, wanted)
    return replace(plan, stored=plan.stored - to_repeat(rerun, store)), store


def make_jobs(
    plan: Plan, store: Store, device: str = "auto", save: Iterable[str] = DEFAULT_SAVE, *, data_root: str | Path | None = None,
    threads: int | None = None, checkpoint_blocks: bool = False, timeout_s: float | None = None,
    checkpoint_s: float | None = CHECKPOINT_S, limit: int | None = None,
) -> list[Job]:  # fmt: skip
    """The missing runs of a plan, at most ``limit`` of them, as what executors take: first those that have no row, in the
    plan's order, then those to be done again, the oldest row first."""
    from vpbench.execution.job import Job, remember, stamp
    from vpbench.spec.device import planned_device

    place, keep = planned_device(device).type, tuple(save)
    stored = {row["run_id"]: row for row in store.read_columns(["run_id", "started_at"])}

    def age(run: PlannedRun) -> float:
        row = stored.get(run.spec.run_id)
        return row["started_at"].timestamp() if row and row["started_at"] else 0.0

    jobs = []
    for run in sorted(plan.missing, key=age)[:limit]:
        raw = plan.data[run.spec.data.dataset]
        job = Job.of(
            run, raw, data_root=data_root, save=keep, device=place, threads=threads, checkpoint_blocks=checkpoint_blocks,
            timeout_s=timeout_s, checkpoint_s=checkpoint_s, replaces=stamp(stored.get(run.spec.run_id)),
        )  # fmt: skip
        remember(job, raw)
        jobs.append(job)
    return jobs


def execute_plan(
    plan: Plan, store: Store, device: str = "auto", save: Iterable[str] = DEFAULT_SAVE, callback: Callback | None = None, *,
    executor: str | Executor = "inline", data_root: str | Path | None = None, threads: int | None = None,
    checkpoint_blocks: bool = False, timeout_s: float | None = None, checkpoint_s: float | None = CHECKPOINT_S,
    limit: int | None = None,
) -> pd.DataFrame:  # fmt: skip
    """Run what is missing in a plan; the rows of the whole plan. Arguments are as in :func:`run`.

    Raises:
        KeyboardInterrupt: when Ctrl-C has kept some runs from being started.
        StoppedError: when SIGTERM has kept some from being finished.
    """
    from dataclasses import asdict

    from vpbench.backbones.weights import load_backbone
    from vpbench.core.errors import StoppedError
    from vpbench.execution.callbacks import Callback
    from vpbench.execution.executor import STOPPED, get_executor, stopped_by_signals
    from vpbench.execution.expected_time import Work
    from vpbench.spec.device import resolve_device

    told = callback or Callback()
    runner = get_executor(executor) if isinstance(executor, str) else executor
    if not runner.is_remote:
        resolve_device(device)  # a GPU that is not there is told before anything is decoded
    jobs = make_jobs(
        plan, store, device, save, data_root=data_root, threads=threads, checkpoint_blocks=checkpoint_blocks,
        timeout_s=timeout_s, checkpoint_s=checkpoint_s, limit=limit,
    )  # fmt: skip
    rows = runner(jobs, store, told)
    for backbone in {run.spec.backbone for run in plan.missing}:
        load_backbone(backbone)  # weights that do not fit end the grid here, not after the images are decoded
    store.check_writable()
    if jobs:
        with store.claims.grid({job.run_id: asdict(Work.of(job)) for job in jobs}), stopped_by_signals(runner, told):
            done = sum(1 for _ in rows)
        if done < len(jobs) and runner.draining:
            raise StoppedError(STOPPED) if runner.pausing else KeyboardInterrupt
    frame = store.load()
    return frame[frame["run_id"].isin({run.spec.run_id for run in plan.runs})].reset_index(drop=True)


def execute_search(
    plan: SearchPlan, store: Store, device: str = "auto", save: Iterable[str] = DEFAULT_SAVE,
    watch: Callable[[Plan], AbstractContextManager[Callback]] | None = None, *, executor: str | Executor = "inline",
    limit: int | None = None, **more: Any,
) -> list[Outcome]:  # fmt: skip
    """Run what is missing of all trials, and then of the final runs of their winners.

    Args:
        plan: from :func:`vpbench.search.search_plan.plan_search`.
        save: what to keep beside the rows of final runs; trials leave their rows alone.
        watch: makes a callback of a round, which is a plan.
        limit: run no more than so many of the missing ones.
        more: arguments of :func:`execute_plan`.

    Returns:
        what came out for each method on each data set.

    Raises:
        UnfinishedError: when runs are left over by ``limit``, or are under way elsewhere.
        KeyboardInterrupt: when Ctrl-C has kept some runs from being started.
    """
    from contextlib import nullcontext

    from vpbench.execution.callbacks import Callback
    from vpbench.execution.executor import get_executor
    from vpbench.search.search_plan import Outcome, as_plan, play, rows_of
    from vpbench.search.study import winner

    runner = get_executor(executor) if isinstance(executor, str) else executor
    left, kept = limit, tuple(save)

    def do(runs: list[PlannedRun], ground: Ground = plan.trials, save: tuple[str, ...] = ()) -> dict[str, dict[str, Any]]:
        nonlocal left
        grid = as_plan(runs, ground, store, artefact_files(save))
        if grid.missing and left != 0:
            with watch(grid) if watch else nullcontext(Callback()) as callback:
                execute_plan(grid, store, device, save, callback, executor=runner, limit=left, **more)
        if left is not None:
            left = max(0, left - len(grid.missing))
        return rows_of(runs, store)

    trials = play(plan.studies, do)
    best = [winner(found) for found in trials]
    final = [
        [] if trial is None else plan.runs_with(study, trial.values) for study, trial in zip(plan.studies, best, strict=True)
    ]
    rows = do([run for runs in final for run in runs], plan.finals, kept)
    return [
        Outcome(study, found, trial, [rows[run.spec.run_id] for run in runs])
        for study, found, trial, runs in zip(plan.studies, trials, best, final, strict=True)
    ]


def noisy_accuracies(
    plan: Plan, store: Store, rows: pd.DataFrame, sigmas: Sequence[float], device: str = "auto"
) -> Iterator[tuple[dict[Hashable, Any], pd.DataFrame]]:
    """Test the stored models of a plan on noisy images, one after the other in this process, and train nothing.

    Args:
        rows: of the plan; those that are not ok are passed over.
        sigmas: standard deviations, with pixels in 0 ... 1; none at all tests nothing.

    Yields:
        a row, and what :func:`vpbench.analysis.noise.evaluate_noise` returns for it.
    """
    from vpbench.analysis.noise import evaluate_noise

    specs = {run.spec.run_id: run.spec for run in plan.runs}
    for row in rows[rows["status"] == "ok"].to_dict("records") if sigmas else ():
        spec = specs[row["run_id"]]
        yield row, evaluate_noise(row, store, sigmas, device, plan.data[spec.data.dataset], spec.backbone)


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
