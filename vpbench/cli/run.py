"""``vpbench run``."""

from __future__ import annotations

from collections.abc import Container
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vpbench.cli import options
from vpbench.cli.words import settings_of, words

if TYPE_CHECKING:
    from vpbench.execution.job import Job
    from vpbench.planning.plan import Plan
    from vpbench.store.store import Store

FAILED = 1
NARROW = ("run_id", "status", "seed", "epochs", "precision", "expected_s")


def run(
    methods: options.Methods = None,
    suite: options.Suite = None,
    data: options.Data = None,
    data_root: options.DataRoot = None,
    datasets: options.Datasets = None,
    backbone: options.Backbone = None,
    weights: options.Weights = None,
    image_size: options.ImageSize = None,
    epochs: options.Epochs = None,
    seeds: Annotated[int, typer.Option(metavar="N", help="How many of the suite's seeds.")] = 1,
    settings: options.Settings = None,
    precision: options.Precision = None,
    selection: options.Selection = None,
    save: options.Save = options.SAVE,
    noise: Annotated[
        str | None,
        typer.Option(
            metavar="0,0.1,...", help="Test the models on images with such noise too, trained before or now; keeps weights."
        ),
    ] = None,
    device: options.Device = "auto",
    results: options.Results = options.RESULTS,
    executor: options.ExecutorName = None,
    workers: options.Workers = None,
    gpus: options.Gpus = None,
    per_gpu: options.PerGpu = None,
    retries: options.Retries = None,
    executor_options: options.ExecutorOptions = None,
    threads: options.Threads = None,
    checkpoint_blocks: options.CheckpointBlocks = False,
    timeout: options.Timeout = None,
    checkpoint_every: options.CheckpointEvery = options.CHECKPOINT_EVERY,
    rerun: Annotated[
        str | None, typer.Option(help="Do stored runs again: failed, stale (by other versions of vpbench or torch) or all.")
    ] = None,
    limit: options.Limit = None,
    dry_run: options.DryRun = False,
    as_json: options.AsJson = False,
) -> None:
    """Train and measure methods; what is stored already is skipped, so the same command continues an interrupted one.

    Examples:

    \b
      vpbench run    six methods on the built-in suite and backbone
      vpbench run --methods linear,vpt,insvp:released --suite mini --seeds 3
      vpbench run --data flowers.parquet --backbone vit_tiny_patch16_224 --weights vit_tiny.safetensors --image-size 96
      vpbench run --methods vpt --set vpt.prompt_length=50 --set recipe.lr=0.005 --epochs 20 --dry-run
      vpbench run --methods vpt,insvp --noise 0,0.1,0.2    then: vpbench report --plot noise
      vpbench run --workers 2 --timeout 2h    two worker processes on the CPUs; a run that hangs is given up
    """
    import json

    from vpbench.api import execute_plan, make_jobs, noisy_accuracies, plan_runs
    from vpbench.cli.progress import GridProgress
    from vpbench.planning.plan import DEFAULT_METHODS, Request
    from vpbench.spec.device import resolve_device

    chosen = words(methods)
    request = Request(
        methods=tuple(chosen) if chosen is not None else DEFAULT_METHODS, suite=suite, data=data, data_root=data_root,
        datasets=words(datasets), backbone=backbone, weights=weights, image_size=image_size, epochs=epochs, seeds=seeds,
        settings=settings_of(settings or []), precision=precision, selection=selection, device=device,
    )  # fmt: skip
    kept, sigmas = options.artefacts(save), _sigmas(noise)
    if sigmas and "weights" not in kept:
        kept.append("weights")
    runner = options.chosen_executor(executor, workers, gpus, per_gpu, retries, executor_options)
    timeout_s, checkpoint_s = options.seconds("--timeout", timeout), options.seconds("--checkpoint-every", checkpoint_every)
    if not runner.is_remote:
        resolve_device(device)
    plan, store = plan_runs(request, results, kept, rerun)
    for name, raw in plan.data.items():
        if raw.note:
            typer.echo(f"note on {name}: {raw.note}", err=True)
    if dry_run:
        _show_plan(plan, store, make_jobs(plan, store, device, kept, data_root=data_root, limit=limit), as_json)
        return
    with GridProgress(plan, limit) as progress:
        frame = execute_plan(
            plan, store, device, kept, progress, executor=runner, data_root=data_root, threads=threads,
            checkpoint_blocks=checkpoint_blocks, timeout_s=timeout_s, checkpoint_s=checkpoint_s, limit=limit,
        )  # fmt: skip
    for row, scores in noisy_accuracies(plan, store, frame, sigmas, device):
        found = ", ".join(f"{acc1:.1f} at {sigma:g}" for sigma, acc1 in zip(scores["sigma"], scores["acc1"]))
        typer.echo(f"noise: {row['method']} on {row['dataset']}, seed {row['seed']}: {found}", err=True)
    if as_json:
        typer.echo(json.dumps(json.loads(frame.to_json(orient="records", date_format="iso", double_precision=15)), indent=2))
    else:
        _summary(plan, frame, results, limit, progress.done)
    if (frame["status"] != "ok").any():
        raise typer.Exit(FAILED)


def _sigmas(text: str | None) -> list[float]:
    """The standard deviations of ``--noise``."""
    from vpbench.analysis.noise import check_sigmas
    from vpbench.core.errors import UsageError

    try:
        return [] if text is None else check_sigmas([float(word) for word in words(text) or []])
    except ValueError:
        raise UsageError(f"--noise {text}: write numbers with commas, e.g. --noise 0,0.1,0.2.") from None


def _show_plan(plan: Plan, store: Store, jobs: list[Job], as_json: bool) -> None:
    import json
    from collections import Counter

    from rich.console import Console
    from rich.table import Table

    from vpbench.core.names import counted
    from vpbench.execution.expected_time import Work, past_runs

    past, with_row = past_runs(store), store.statuses()
    expected = {job.run_id: past.seconds(Work.of(job)) for job in jobs}
    rows: list[dict[str, Any]] = [
        {
            "run_id": run.spec.run_id, "status": _planned(run.spec.run_id, plan, with_row),
            "method": run.spec.method.label, "dataset": run.spec.data.dataset, "backbone": run.spec.backbone.name,
            "weights": run.spec.backbone.weights, "seed": run.spec.seed, "epochs": run.spec.recipe.epochs,
            "lr": run.spec.recipe.peak_lr, "precision": run.spec.precision, "expected_s": expected.get(run.spec.run_id),
        }
        for run in plan.runs
    ]  # fmt: skip
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    table = Table(box=None, header_style="bold", pad_edge=False)
    shown = [name for name in rows[0] if name not in ("weights", "lr", "precision")]  # these are in --json
    for column in shown:  # on a narrow terminal, names break into lines; what tells runs apart does not
        table.add_column(column, overflow="fold", no_wrap=column in NARROW)
    for row in rows:
        row["expected_s"] = "" if row["expected_s"] is None else f"{row['expected_s']:.0f}"
        table.add_row(*(row["run_id"][:8] if name == "run_id" else str(row[name]) for name in shown))
    Console().print(table)
    kinds = Counter(row["status"] for row in rows)
    again = f", {kinds['again']} to be done again" if kinds["again"] else ""
    typer.echo(
        f"{counted(len(rows), 'run')}, {kinds['stored']} stored, {kinds['missing']} missing{again}. "
        f"{_cost(list(expected.values()))}Nothing was run."
    )


def _planned(run_id: str, plan: Plan, with_row: Container[str]) -> str:
    """What becomes of a run: ``stored`` is left alone, ``missing`` is done, and ``again`` is done though it has a row."""
    return "stored" if run_id in plan.stored else "again" if run_id in with_row else "missing"


def _cost(expected: list[float | None]) -> str:
    """What ``--dry-run`` says of the time, on one worker."""
    from vpbench.execution.expected_time import spoken

    known = [seconds for seconds in expected if seconds is not None]
    if not known:
        return ""
    unknown = f" and {len(expected) - len(known)} that nothing is known of" if len(known) < len(expected) else ""
    return f"Expected, by past rows: {spoken(sum(known))} for {len(known)} of them{unknown}, one after the other. "


def _summary(plan: Plan, frame: Any, results: Path, limit: int | None, new: int) -> None:
    """What went wrong, where the rows are, how many of them are new, and what to do next."""
    from vpbench.core.names import counted

    for row in frame[frame["status"] != "ok"].itertuples():
        reason = (row.error.strip().splitlines() or [""])[-1]
        typer.echo(
            f"{row.method} on {row.dataset}, seed {row.seed}: {row.status} - {reason} (vpbench show run {row.run_id[:8]})",
            err=True,
        )
    if left := len(plan.missing) - len(plan.missing[:limit]):
        typer.echo(f"Left over by --limit {limit}: {counted(left, 'run')}; the same command does the next ones.", err=True)
    following = f" Next: vpbench report --table 1 --results {results}" if len(frame) else ""
    typer.echo(f"{counted(len(frame), 'row')} in {results}, {new} of them new.{following}")
