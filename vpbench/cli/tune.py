"""``vpbench tune``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from vpbench.cli import options
from vpbench.cli.words import settings_of, words

if TYPE_CHECKING:
    from vpbench.search.search_plan import Outcome, SearchPlan
    from vpbench.store.store import Store

FAILED = 1


def tune(
    methods: options.Methods = None,
    space: Annotated[
        str, typer.Option(help="What is searched: a name of 'vpbench list searches', or a file: my.toml.")
    ] = "vpt-grid",
    sampler: Annotated[str | None, typer.Option(help="grid (every point) or tpe (Optuna). Default: the space's.")] = None,
    trials: Annotated[
        int | None, typer.Option(metavar="N", help="Budget of tpe, for every method on every data set. Default: the space's.")
    ] = None,
    batch: Annotated[
        int | None, typer.Option(metavar="N", help="Trials that tpe chooses at a time, whatever the workers. Default: 8.")
    ] = None,
    prune: Annotated[
        int | None,
        typer.Option(metavar="EPOCHS", help="With tpe: begin each trial with so few epochs, and drop those below the median."),
    ] = None,
    sampler_seed: Annotated[int | None, typer.Option(min=0, metavar="N", help="Seed of tpe. Default: 0.")] = None,
    seeds: Annotated[
        int | None, typer.Option(metavar="N", help="Final runs of each winner. Default: all seeds of the suite.")
    ] = None,
    suite: options.Suite = None,
    data: options.Data = None,
    data_root: options.DataRoot = None,
    datasets: options.Datasets = None,
    backbone: options.Backbone = None,
    weights: options.Weights = None,
    image_size: options.ImageSize = None,
    epochs: options.Epochs = None,
    settings: options.Settings = None,
    precision: options.Precision = None,
    selection: options.Selection = None,
    save: options.Save = options.SAVE,
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
    limit: options.Limit = None,
    dry_run: options.DryRun = False,
    as_json: options.AsJson = False,
) -> None:
    """Search settings on validation images, with the same budget for every method on every data set; then run what wins.

    Trials never see the test split. The most right answers on validation win, and ties go to the smaller learning rate. Rows
    of trials have the stage 'search' and are in no report; the winners' runs have the stage 'final'. The same command
    continues an interrupted search.

    Examples:

    \b
      vpbench tune --methods linear,vpt --suite vtab1k --dry-run    VPT's grid of 40 rates and weight decays: what it costs
      vpbench tune --methods vpt,e2vpt --space prompt-length --datasets digits --seeds 3
      vpbench tune --methods vpt,insvp --space adamw --trials 30 --prune 3 --workers 4
      vpbench tune --methods vpt --space my.toml --sampler tpe --trials 16 --executor ray
    """
    import json

    from vpbench.api import execute_search
    from vpbench.cli.progress import GridProgress
    from vpbench.planning.plan import DEFAULT_METHODS, Request
    from vpbench.search.search_plan import Budget, UnfinishedError, plan_search
    from vpbench.store.store import Store

    chosen = words(methods)
    request = Request(
        methods=tuple(chosen) if chosen is not None else DEFAULT_METHODS, suite=suite, data=data, data_root=data_root,
        datasets=words(datasets), backbone=backbone, weights=weights, image_size=image_size, epochs=epochs,
        settings=settings_of(settings or []), precision=precision, selection=selection, device=device,
    )  # fmt: skip
    kept = options.artefacts(save)
    runner = options.chosen_executor(executor, workers, gpus, per_gpu, retries, executor_options)
    timeout_s, checkpoint_s = options.seconds("--timeout", timeout), options.seconds("--checkpoint-every", checkpoint_every)
    budget = Budget(space, sampler, trials, batch, sampler_seed, prune, seeds)
    plan, store = plan_search(request, budget), Store(results)
    store.statuses()  # rows that only a later vpbench understands are told before anything is done
    for name, raw in plan.trials.data.items():
        if raw.note:
            typer.echo(f"note on {name}: {raw.note}", err=True)
    if dry_run:
        _show_plan(plan, store, device, data_root, as_json)
        return
    typer.echo(stated(plan), err=True)
    try:
        outcomes = execute_search(
            plan, store, device, kept, GridProgress, executor=runner, data_root=data_root, threads=threads,
            checkpoint_blocks=checkpoint_blocks, timeout_s=timeout_s, checkpoint_s=checkpoint_s, limit=limit,
        )  # fmt: skip
    except UnfinishedError:
        typer.echo("Not all trials are done yet; the same command goes on.", err=True)
        return
    if as_json:
        typer.echo(json.dumps([_as_data(outcome) for outcome in outcomes], indent=2))
    else:
        _show(outcomes)
        typer.echo(f"Next: vpbench report --table 1 --results {results}")
    if any(outcome.best is None or any(row["status"] != "ok" for row in outcome.finals) for outcome in outcomes):
        raise typer.Exit(FAILED)


def stated(plan: SearchPlan) -> str:
    """The budget in two sentences."""
    from vpbench.core.names import counted

    budget = plan.budget
    methods, sets = (list(dict.fromkeys(names)) for names in zip(*((study.method, study.dataset) for study in plan.studies)))
    how = "its whole grid" if budget.sampler == "grid" else f"TPE, seed {budget.seed}, {budget.batch} at a time"
    if budget.prune:
        how += f", those below the median stopped after epoch {budget.prune}"
    finals = counted(len(plan.seeds), "final run")
    return (
        f"Search {budget.space} ({how}): {budget.trials} trials for each method ({', '.join(methods)}) on each data set "
        f"({', '.join(sets)}), chosen on validation images. Then {finals} of each winner."
    )


def _show_plan(plan: SearchPlan, store: Store, device: str, data_root: str | None, as_json: bool) -> None:
    import json

    from rich.console import Console
    from rich.table import Table

    from vpbench.execution.expected_time import Work, past_runs, spoken
    from vpbench.execution.job import Job
    from vpbench.search.search_plan import replayed
    from vpbench.search.study import winner
    from vpbench.spec.device import resolve_device

    past, place = past_runs(store), resolve_device(device).type
    rows: list[dict[str, Any]] = []
    for study in plan.studies:
        stored, trials = replayed(plan, study, store)
        best = None if trials is None else winner(trials)
        probe = plan.space.probes(study.method.partition(":")[0])[0]
        raw = plan.trials.data[study.dataset]
        job = Job.of(study.trial(probe, None), raw, data_root=data_root, device=place)
        each = past.seconds(Work.of(job))
        left = max(0, study.search.trials + len(plan.seeds) - len(stored))
        rows.append(
            {
                "method": study.method, "dataset": study.dataset, "trials": study.search.trials, "finals": len(plan.seeds),
                "stored": len(stored), "epochs": job.spec.recipe.epochs, "searched": ", ".join(study.search.searched),
                "winner": None if best is None else best.values, "expected_s": None if each is None else each * left,
            }
        )  # fmt: skip
    if as_json:
        typer.echo(json.dumps({"search": plan.budget.model_dump(mode="json"), "studies": rows}, indent=2))
        return
    table = Table(box=None, header_style="bold", pad_edge=False)
    columns = ("method", "dataset", "trials", "finals", "stored", "epochs", "searched", "expected_s")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        seconds = row["expected_s"]
        table.add_row(*(str(row[name]) for name in columns[:-1]), "" if seconds is None else f"{seconds:.0f}")
    Console().print(table)
    known = [row["expected_s"] for row in rows if row["expected_s"] is not None]
    cost = f"Expected, by past rows: {spoken(sum(known))} for {len(known)} of {len(rows)} searches, one run after the other. "
    typer.echo(f"{stated(plan)} {cost if known else ''}Nothing was run.")


def _show(outcomes: list[Outcome]) -> None:
    from collections import Counter
    from statistics import mean

    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("method", "dataset", "trials", "winner", "validation", "test"):
        table.add_column(column, overflow="fold")
    for outcome in outcomes:
        states = Counter(trial.state for trial in outcome.trials)
        trials = ", ".join(f"{count} {state}" for state, count in states.items())
        best, scores = outcome.best, [row["acc1"] for row in outcome.finals if row["status"] == "ok"]
        if best is None:
            cells = ("none: no trial has a number", "", "")
        else:
            values = ", ".join(f"{name.removeprefix('recipe.')}={_number(value)}" for name, value in best.values.items())
            tested = f"{mean(scores):.1f} % (n = {len(scores)})" if scores else "failed"
            cells = (values, f"{best.row['val_correct']} of {best.row['n_val']}", tested)
        table.add_row(outcome.study.method, outcome.study.dataset, trials, *cells)
    Console().print(table)


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _as_data(outcome: Outcome) -> dict[str, Any]:
    columns = ("run_id", "status", "lr", "weight_decay", "epochs", "val_acc1", "val_correct", "n_val")
    study = outcome.study
    return {
        "method": study.method,
        "dataset": study.dataset,
        "search": study.search.model_dump(mode="json"),
        "trials": [
            {"number": trial.number, "state": trial.state, "values": trial.values, **{name: trial.row[name] for name in columns}}
            for trial in outcome.trials
        ],
        "winner": None if outcome.best is None else outcome.best.number,
        "finals": [
            {name: row[name] for name in ("run_id", "status", "seed", "acc1", "correct", "total")} for row in outcome.finals
        ],
    }
