"""``vpbench status``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from vpbench.cli import options

if TYPE_CHECKING:
    from rich.console import Group

    from vpbench.store.store import Store

EVERY_S = 2.0


def status(
    results: options.Results = options.RESULTS,
    collect: Annotated[
        bool, typer.Option("--collect", help="First look after runs that were submitted to Slurm and left (--executor slurm).")
    ] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Look again every two seconds, until Ctrl-C.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, for programs.")] = False,
) -> None:
    """Show what runs now and where, what is done, what went wrong, and how long the rest will take.

    Examples:

    \b
      vpbench status
      vpbench status --results results/vtab --watch
      # runs whose Slurm task ended without a row get one that says why
      vpbench status --collect
    """
    import json
    import time
    from contextlib import suppress

    from rich.live import Live

    from vpbench.core.errors import UsageError
    from vpbench.core.terminal import Terminal
    from vpbench.store.store import Store

    terminal, store = Terminal(), Store(results)
    if watch and as_json:
        raise UsageError("--watch and --json exclude each other; ask for --json as often as you need it.")
    if collect or not watch:
        store.check_there()
    collected = {"collected": _collect(store, quiet=as_json)} if collect else {}
    if as_json:
        typer.echo(json.dumps({**facts(store), **collected}, indent=2))
    elif not watch:
        terminal.print(_drawn(facts(store)))
    else:
        with suppress(KeyboardInterrupt), Live(_seen(store), console=terminal, auto_refresh=False) as live:
            while True:
                time.sleep(EVERY_S)
                live.update(_seen(store), refresh=True)
        if not terminal.is_terminal:
            terminal.line()  # which rich writes on a terminal only


def _seen(store: Store) -> Group:
    """What ``--watch`` shows now; a command that has just been started makes the folder when it has its plan."""
    from rich.console import Group

    if not store.folder.is_dir():
        return Group(f"There is no results folder {store.folder} yet; waiting for it until Ctrl-C.")
    return _drawn(facts(store))


def _collect(store: Store, quiet: bool) -> dict[str, Any]:
    """What became of the runs in Slurm's queue; those that were lost have a row afterwards."""
    from dataclasses import asdict

    from vpbench.execution.executor import executor_registry

    executor_registry().get("slurm")  # one clear line where submitit is not installed
    from vpbench.execution.executors.slurm.collect import collect

    found: dict[str, Any] = asdict(collect(store))
    if not quiet:
        counts = ", ".join(f"{found[name]} {name}" for name in ("finished", "running", "pending"))
        typer.echo(f"Slurm: {counts}, {len(found['lost'])} lost.")
        for run_id in found["lost"]:
            typer.echo(f"lost: vpbench logs {run_id[:8]} --results {store.folder}")
    return found


def facts(store: Store) -> dict[str, Any]:
    """Everything that ``vpbench status`` shows.

    Returns:
        ``rows`` (how many of each status), ``left_out`` (a line for every file that is no readable result),
        ``running`` (a list; ``label``, ``place``, ``host``, ``pid``, ``since``),
        ``places`` (how many runs each worker's place has under way), ``left`` (runs that commands at work have still to
        finish, those under way and later rounds of a search included), ``seconds_left`` (None when no past run tells), and
        ``table`` (counts by method and data set).
    """
    from collections import Counter

    from vpbench.planning.expected_time import COLUMNS
    from vpbench.store.store import as_dicts

    found = store.read([*COLUMNS, "started_at"])
    rows = as_dicts(found.table, [*COLUMNS, "started_at"])
    running = [{"run_id": run_id, **about} for run_id, about in store.claims.held().items()]
    left, seconds = _left(store, rows, running)
    kinds = Counter((row["method"], row["dataset"], "ok" if row["status"] == "ok" else "not_ok") for row in rows)
    return {
        "results": str(store.folder),
        "rows": dict(Counter(row["status"] for row in rows)),
        "left_out": found.left_out,
        "running": running,
        "places": dict(Counter(f"{run.get('host', '?')}: {run.get('place', '?')}" for run in running)),
        "left": left,
        "seconds_left": seconds,
        "table": [
            {"method": method, "dataset": dataset, **{kind: kinds[method, dataset, kind] for kind in ("ok", "not_ok")}}
            for method, dataset in sorted({(row["method"] or "", row["dataset"] or "") for row in rows})
        ],
    }


def _left(store: Store, rows: list[dict[str, Any]], running: list[dict[str, Any]]) -> tuple[int, float | None]:
    """How many runs commands at work have still to finish, and how long that takes with as many at a time as run now."""
    from datetime import datetime
    from statistics import mean

    from vpbench.execution.time_left import OVERDUE
    from vpbench.planning.expected_time import PastRuns, Work

    past, stored = PastRuns(rows), {row["run_id"]: row for row in rows}
    expected: dict[str, float | None] = {}
    for grid in store.claims.grids():
        since = datetime.fromisoformat(grid["since"]) if "since" in grid else None
        for run_id, work in grid.get("runs", {}).items():
            row = stored.get(run_id)
            if row is None or since is None or row["started_at"] < since:
                expected[run_id] = past.seconds(Work(**work))
    known = [seconds for seconds in expected.values() if seconds is not None]
    if not known:
        return len(expected), None
    seconds = {run_id: mean(known) if each is None else each for run_id, each in expected.items()}
    for run in running:
        if run["run_id"] in seconds and (taken := _taken(run)) is not None:
            seconds[run["run_id"]] = max(seconds[run["run_id"]] - taken, OVERDUE * taken)
    return len(expected), sum(seconds.values()) / max(1, len(running))


def _taken(run: dict[str, Any]) -> float | None:
    """Seconds since a run under way has begun, if it says so."""
    from datetime import UTC, datetime

    return (datetime.now(UTC) - datetime.fromisoformat(run["since"])).total_seconds() if "since" in run else None


def _drawn(known: dict[str, Any]) -> Group:
    """The facts for a terminal."""
    from rich.console import Group
    from rich.table import Table

    from vpbench.core.escaping import one_line
    from vpbench.core.names import counted
    from vpbench.planning.expected_time import format_duration

    rows, running = known["rows"], known["running"]
    counts = ", ".join(f"{count} {name}" for name, count in sorted(rows.items(), key=lambda item: (item[0] != "ok", item[0])))
    held = f": {counted(sum(rows.values()), 'row')} ({counts})" if counts else " holds no rows."
    parts: list[Any] = [f"{known['results']}{held}", *known["left_out"]]
    if running:
        table = Table(box=None, header_style="bold", pad_edge=False)
        for column in ("running", "place", "host", "process", "for"):
            table.add_column(column, overflow="fold")
        for run in running:
            seconds = _taken(run)
            table.add_row(
                *(one_line(str(run.get(name, "?"))) for name in ("label", "place", "host", "pid")),
                "?" if seconds is None else format_duration(seconds),
            )
        parts += ["", table]
    if known["left"]:
        time = known["seconds_left"]
        when = "time unknown" if time is None else f"about {format_duration(time)}"
        loading = "" if running else "; none is under way at this moment"
        parts += ["", f"{counted(known['left'], 'run')} left, {when}{loading}"]
    elif not running:
        parts += ["", "Nothing is running." + ("" if counts else " --results chooses another folder.")]
    if known["table"]:
        table = Table(box=None, header_style="bold", pad_edge=False)
        for column in ("method", "dataset"):
            table.add_column(column, overflow="fold")
        for column in ("ok", "not ok"):
            table.add_column(column, justify="right")
        for line in known["table"]:
            table.add_row(one_line(line["method"]), one_line(line["dataset"]), str(line["ok"]), str(line["not_ok"]))
        parts += ["", table]
    return Group(*parts)
