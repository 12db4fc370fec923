"""What ``vpbench run`` shows of runs: the plan of ``--dry-run``, and what came of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from vpbench.execution.run_progress import RunProgress
    from vpbench.planning.plan import Plan
    from vpbench.spec.request import Request
    from vpbench.spec.run_options import RunOptions

UNBROKEN = ("run_id", "status", "seed", "epochs", "precision", "expected_s")  # columns that are not wrapped
FEW = 6  # runs whose ids are printed at the end


def run_and_show(request: Request, options: RunOptions, results: Path, as_json: bool) -> tuple[list[dict[str, Any]], bool]:
    """Run, and say what came of it unless it is wanted as JSON; the rows, and whether all are ok."""
    import json

    from vpbench.api import run_request
    from vpbench.execution.run_progress import RunProgress

    with RunProgress() as progress:
        frame = run_request(request, options, results, progress)
    if not as_json:
        _summary(progress, frame, results)
    rows = json.loads(frame.to_json(orient="records", date_format="iso", double_precision=15))
    return rows, not (frame["status"] != "ok").any()


def show_plan(request: Request, options: RunOptions, results: Path, as_json: bool) -> list[dict[str, Any]]:
    """The plan, shown as a table unless it is wanted as JSON; its runs."""
    from vpbench.api import expected_seconds, plan_request
    from vpbench.cli.dry_run import checked_weights
    from vpbench.execution.run_progress import RunProgress
    from vpbench.store.store import Store

    plan, store = plan_request(request, options, results, RunProgress(), without_data=True), Store(results)
    absent = checked_weights(run.spec.backbone for run in plan.missing if run.spec.run_id not in plan.unsupported)
    times = expected_seconds(plan, store, options)
    expected = {run_id: seconds for run_id, seconds in times.items() if run_id not in plan.unsupported}
    rows = _planned_rows(plan, store.statuses(), expected)
    if not as_json:
        _print_plan(plan, rows, list(expected.values()), request.suite or "", bool(request.data), absent)
    return rows


def _planned_rows(plan: Plan, with_row: Container[str], expected: Mapping[str, float | None]) -> list[dict[str, Any]]:
    from vpbench.cli.dry_run import recipe_facts

    return [
        {
            "run_id": run.spec.run_id if run.spec.data.digest else None, "status": _planned(run.spec.run_id, plan, with_row),
            "method": run.spec.method.label, "dataset": run.spec.data.dataset, "backbone": run.spec.backbone.name,
            "weights": run.spec.backbone.weights, "seed": run.spec.seed, "epochs": run.spec.recipe.epochs,
            "lr": run.spec.recipe.peak_lr, "precision": run.spec.precision, "expected_s": expected.get(run.spec.run_id),
            "unsupported": plan.unsupported.get(run.spec.run_id, ""),
            **recipe_facts(run, plan.data),
        }
        for run in plan.runs
    ]  # fmt: skip


def _print_plan(
    plan: Plan, rows: list[dict[str, Any]], expected: list[float | None], suite: str, own: bool, absent_weights: list[str]
) -> None:  # fmt: skip
    from vpbench.cli.dry_run import absent_line, blank_lines, data_lines, image_lines, recipe_lines, work_line
    from vpbench.core.names import counted

    _print_runs(rows)
    for line in blank_lines(rows):
        typer.echo(line)
    for method, reason in dict.fromkeys((row["method"], row["unsupported"]) for row in rows if row["unsupported"]):
        typer.echo(f"{method} is unsupported here: {reason}")
    users = {run.spec.data.dataset for run in plan.runs if run.spec.data.path}
    for line in (*data_lines(plan.data, users), *image_lines(plan.runs, own), *recipe_lines(plan.runs)):
        typer.echo(line)
    able = [run for run in plan.missing if run.spec.run_id not in plan.unsupported]
    for line in (work_line(able, plan.data), absent_line(plan.absent, suite), *absent_weights):
        if line:
            typer.echo(line)
    kinds = Counter(row["status"] for row in rows)
    again = f", {kinds['again']} to be repeated" if kinds["again"] else ""
    count = counted(len(rows) - kinds["unsupported"], "run")
    beside = f"; {kinds['unsupported']} more unsupported" if kinds["unsupported"] else ""
    typer.echo(f"{count}, {kinds['stored']} stored, {kinds['missing']} missing{again}{beside}. {_cost(expected)}Nothing was run.")


def _print_runs(rows: list[dict[str, Any]]) -> None:
    from rich.table import Table

    from vpbench.core.terminal import Terminal
    from vpbench.store.find_run import SHORT

    table = Table(box=None, header_style="bold", pad_edge=False)
    columns = ("run_id", "status", "method", "dataset", "backbone", "seed", "epochs", "expected_s")  # --json has more
    shown = [column for column in columns if any(row[column] is not None for row in rows)]
    for column in shown:
        table.add_column(column, overflow="fold", no_wrap=column in UNBROKEN)
    for row in rows:
        texts = {
            **row,
            "run_id": (row["run_id"] or "")[:SHORT],
            "expected_s": "" if row["expected_s"] is None else f"{max(1, row['expected_s']):.0f}",
        }
        table.add_row(*(str(texts[column]) for column in shown))
    Terminal().print(table)


def _planned(run_id: str, plan: Plan, with_row: Container[str]) -> str:
    """What the command does with a run: ``stored`` is skipped, ``unsupported`` gets a row that says so, ``missing`` is run, and
    ``again`` is run though it has a row."""
    if run_id in plan.stored:
        return "stored"
    return "unsupported" if run_id in plan.unsupported else "again" if run_id in with_row else "missing"


def _cost(expected: list[float | None]) -> str:
    """The expected time for ``--dry-run``, on one worker."""
    from vpbench.planning.expected_time import format_duration

    known = [seconds for seconds in expected if seconds is not None]
    if not known:
        return ""
    unknown = f" and {len(expected) - len(known)} without similar rows" if len(known) < len(expected) else ""
    return f"Expected, by past rows: {format_duration(sum(known))} for {len(known)} of them{unknown}, one after the other. "


def _summary(progress: RunProgress, frame: Any, results: Path) -> None:
    """What went wrong, where the rows are, how many of them are new, and what to do next."""
    from vpbench.core.names import counted
    from vpbench.store.find_run import SHORT

    failed = frame[frame["status"] != "ok"]
    several = len(frame) and frame["backbone"].nunique() > 1
    for row in failed.itertuples():
        place = f" ({row.backbone})" if several else ""
        reason = (row.error.strip().splitlines() or [""])[-1]
        more = f"(vpbench show run {row.run_id[:SHORT]})"
        typer.echo(f"{row.method} on {row.dataset}{place}, seed {row.seed}: {row.status} - {reason} {more}", err=True)
    if old := sum(row.run_id not in progress.fresh for row in failed.itertuples()):
        typer.echo(f"{counted(old, 'run')} of these had ended so before; --rerun failed repeats them.", err=True)
    if progress.left_over:
        count = counted(progress.left_over, "run")
        typer.echo(f"Left over by --limit {progress.limit}: {count}; the same command does the next ones.", err=True)
    following = f" Next: vpbench report --table 1 --results {results}" if len(frame) else ""
    others = f", {progress.by_others} by another command" if progress.by_others else ""
    typer.echo(
        f"{counted(len(frame), 'row')}, {progress.done - progress.by_others} of them new{others}, in {results}.{following}"
    )
    if len(frame):
        typer.echo(f"{_ids(frame)} vpbench show run --results {results}")


def _ids(frame: Any) -> str:
    """The ids of few runs, each with what it is unless it is the only one, and the beginning of a command that lists all."""
    from vpbench.store.find_run import SHORT

    if len(frame) > FEW:
        return "Every run has an id, by which other commands know it:"
    several = {name: frame[name].nunique() > 1 for name in ("method", "dataset", "backbone", "seed")}
    named = [
        " ".join([row.run_id[:SHORT], *(str(getattr(row, name)) for name, differs in several.items() if differs)])
        for row in frame.sort_values("started_at").itertuples()
    ]
    return f"{'Runs' if len(named) > 1 else 'Run'}: {', '.join(named)}. More of them:"
