"""``vpbench tune``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from vpbench.cli import options as flags

if TYPE_CHECKING:
    from vpbench.search.outcomes import Outcomes
    from vpbench.search.search_plan import Outcome, SearchPlan
    from vpbench.search.study import Study
    from vpbench.spec.budget import Budget
    from vpbench.spec.request import Request
    from vpbench.spec.run_options import RunOptions
    from vpbench.store.store import Store

FAILED = 1


@flags.takes(
    budget="vpbench.spec.budget.Budget",
    request="vpbench.spec.request.Request",
    options="vpbench.spec.run_options.RunOptions",
    without=(
        "request.seeds",
        "options.noise",
        "options.corruptions",
        "options.test_on",
        "options.wise_ft",
        "options.scales",
        "options.rerun",
    ),
)
def tune(
    budget: Budget,
    request: Request,
    options: RunOptions,
    results: flags.Results = flags.RESULTS,
    dry_run: flags.DryRun = False,
    as_json: flags.AsJson = False,
) -> None:
    """Search settings on validation images, with the same budget for every method on every data set; then run what wins.

    Trials never see the test split. The most right answers on validation win, and ties go to the smaller learning rate. Rows
    of trials have the stage 'search' and are in no report; the winners' runs have the stage 'final'. The same command
    continues an interrupted search.

    Examples:

    \b
      # VPT's grid of 40 rates and weight decays: what it costs
      vpbench tune --methods linear,vpt --suite vtab1k --dry-run
      vpbench tune --methods vpt,e2vpt --space prompt-length --datasets digits \\
          --seeds 3
      vpbench tune --methods vpt,insvp --space adamw --trials 30 --prune 3 \\
          --workers 4
      vpbench tune --methods vpt --space my.toml --sampler tpe --trials 16 \\
          --executor ray
    """
    import json

    if dry_run:
        plan = show_search(request, budget, options, results, as_json)
        if as_json:
            typer.echo(json.dumps(plan, indent=2))
        return
    outcomes, is_whole = tune_and_show(request, budget, options, results, as_json)
    if as_json and outcomes is not None:
        typer.echo(json.dumps(outcomes, indent=2))
    if not is_whole:
        raise typer.Exit(FAILED)


def tune_and_show(
    request: Request, budget: Budget, options: RunOptions, results: Path, as_json: bool
) -> tuple[list[dict[str, Any]] | None, bool]:
    """Search, and say what came of it unless it is wanted as JSON; the outcomes, and whether all have ended well.

    None while some trials have no row yet, which is no failure.
    """
    from vpbench import api
    from vpbench.execution.run_progress import RunProgress
    from vpbench.search.unfinished import UnfinishedError

    try:
        with RunProgress() as progress:
            outcomes = api.tune_request(request, budget, options, results, progress)
    except UnfinishedError:
        typer.echo("Not all trials are done yet; the same command continues.", err=True)
        return None, True
    if not as_json:
        _show(outcomes)
        typer.echo(f"Next: vpbench report --table 1 --results {results}")
    failed = any(outcome.best is None or any(row["status"] != "ok" for row in outcome.finals) for outcome in outcomes)
    return [_as_data(outcome) for outcome in outcomes], not failed


def show_search(request: Request, budget: Budget, options: RunOptions, results: Path, as_json: bool) -> dict[str, Any]:
    """The plan of a search, shown as a table unless it is wanted as JSON."""
    from vpbench import api
    from vpbench.cli.dry_run import checked_weights
    from vpbench.execution.run_progress import RunProgress
    from vpbench.store.store import Store

    plan = api.plan_tuning(request, budget, options, results, RunProgress(), without_data=True)
    absent = checked_weights(study.backbone for study in plan.studies)
    rows = _planned(plan, Store(results))
    if not as_json:
        _show_plan(plan, rows, absent)
    return {"search": plan.budget.model_dump(mode="json"), "studies": rows, "total": _total(rows)}


def _planned(plan: SearchPlan, store: Store) -> list[dict[str, Any]]:
    """What each search has to do."""
    from vpbench.planning.expected_time import Work, past_runs
    from vpbench.search.search_plan import replayed
    from vpbench.search.study import winner
    from vpbench.spec.device import planned_device

    past, device = past_runs(store), planned_device(plan.trials.request.device).type
    rows: list[dict[str, Any]] = []
    for study in plan.studies:
        stored, trials = replayed(plan, study, store)
        best = None if trials is None else winner(trials)
        probe = plan.space.probes(study.method.partition(":")[0])[0]
        spec, raw = study.trial(probe, None).spec, plan.trials.data[study.dataset]
        each = past.seconds(Work.of_run(spec, len(raw.splits["train"]), device))
        finals = plan.runs_with(study, probe if best is None else best.values)
        final = Work.of_run(finals[0].spec, len(plan.finals.data[study.dataset].splits["train"]), device)
        each_final = past.seconds(final)
        left = 0 if trials is not None else max(0, study.search.trials - len(stored))
        finals_left = 0 if trials and best is None else sum(run.spec.run_id not in stored for run in finals)
        rows.append(
            {
                "method": study.method, "dataset": study.dataset, "backbone": study.backbone.name,
                "trials": study.search.trials, "finals": len(plan.seeds),
                "stored": len(stored), "epochs": spec.recipe.epochs, "searched": ", ".join(study.search.searched),
                "winner": None if best is None else best.values, "left": left + finals_left,
                "expected_s": None if each is None or each_final is None else each * left + each_final * finals_left,
            }
        )  # fmt: skip
    return rows


def _total(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Of all searches; ``expected_s`` of those where it is known."""
    known = [row["expected_s"] for row in rows if row["expected_s"] is not None]
    counts = {name: sum(row[name] for row in rows) for name in ("trials", "finals", "stored", "left")}
    return {**counts, "expected_s": sum(known) if known else None}


def _show_plan(plan: SearchPlan, rows: list[dict[str, Any]], absent_weights: list[str]) -> None:
    from rich.table import Table

    from vpbench.cli.dry_run import NO_TIMES, absent_line, data_lines
    from vpbench.core.names import counted
    from vpbench.core.terminal import Terminal
    from vpbench.planning.expected_time import format_duration

    table = Table(box=None, header_style="bold", pad_edge=False)
    columns = ("method", "dataset", *_if_several(plan.studies), "trials", "finals", "stored", "epochs", "searched")
    known = [row["expected_s"] for row in rows if row["expected_s"] is not None]
    for column in (*columns, *(["expected_s"] if known else [])):
        table.add_column(column, overflow="fold")
    for row in rows:
        seconds = row["expected_s"]
        times = ["" if seconds is None else f"{max(1, seconds):.0f}"] if known else []
        table.add_row(*(str(row[name]) for name in columns), *times)
    Terminal().print(table)
    if rows and not known:
        typer.echo(NO_TIMES)
    count = "all" if len(known) == len(rows) else f"{len(known)} of {len(rows)} searches"
    cost = f"Expected, by past rows: {format_duration(sum(known))} for {count}, one run after the other. " if known else ""
    users = plan.trials.suite.data.keys() | set(plan.trials.data if plan.trials.request.data else ())
    for line in data_lines(plan.trials.data, users):
        typer.echo(line)
    for line in (absent_line(plan.trials.absent, plan.trials.request.suite or ""), *absent_weights):
        if line:
            typer.echo(line)
    typer.echo(plan.summary())
    total = _total(rows)
    counts = f"{counted(total['trials'], 'trial')}, then {counted(total['finals'], 'final run')}"
    typer.echo(f"Total: {counts}; {total['stored']} stored, {total['left']} left. {cost}Nothing was run.")


def _show(outcomes: Outcomes) -> None:
    from rich.table import Table

    from vpbench.core.terminal import Terminal

    table, lines = Table(box=None, header_style="bold", pad_edge=False), outcomes.table()
    for column in lines[0]:
        table.add_column(column, overflow="fold")
    for line in lines:
        table.add_row(*line.values())
    Terminal().print(table)


def _if_several(studies: list[Study]) -> tuple[str, ...]:
    """The column of the backbone, where there is more than one."""
    return ("backbone",) if len({study.backbone.name for study in studies}) > 1 else ()


def _as_data(outcome: Outcome) -> dict[str, Any]:
    columns = ("run_id", "status", "lr", "weight_decay", "epochs", "val_score", "val_acc1", "val_correct", "n_val")
    study = outcome.study
    return {
        "method": study.method,
        "dataset": study.dataset,
        "backbone": study.backbone.name,
        "search": study.search.model_dump(mode="json"),
        "trials": [
            {"number": trial.number, "state": trial.state, "values": trial.values, **{name: trial.row[name] for name in columns}}
            for trial in outcome.trials
        ],
        "winner": None if outcome.best is None else outcome.best.number,
        "finals": [
            {name: row[name] for name in ("run_id", "status", "seed", "metric", "score", "acc1", "correct", "total")}
            for row in outcome.finals
        ],
    }
