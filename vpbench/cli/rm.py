"""``vpbench rm``."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vpbench.cli import options

if TYPE_CHECKING:
    from vpbench.store.removing import StoredRun


def rm(
    runs: Annotated[list[str], typer.Argument(metavar="RUN...", help="ids of runs; their first digits are enough")],
    results: options.Results = options.RESULTS,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be removed, and stop.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="What was removed, as JSON on stdout; needs --yes or --dry-run.")
    ] = False,
) -> None:
    """Remove runs from a results folder: their rows, also compacted ones, and their artefacts, checkpoints and logs.

    Nothing is removed when one of the runs is not there or is under way. Exit code 1: you said no.

    Examples:

    \b
      vpbench rm 3fa9 81c2
      vpbench rm 3fa9 --dry-run
      vpbench rm 3fa9 --yes --results results/vtab
    """
    import json

    from vpbench.core.errors import UsageError
    from vpbench.core.names import counted
    from vpbench.store.removing import find_runs, remove_runs
    from vpbench.store.store import Store

    store = Store(results)
    store.check_there()
    found = find_runs(store, runs)
    if not (yes or dry_run or (sys.stdin.isatty() and not as_json)):
        count = counted(len(found), "run")
        raise UsageError(f"--yes is needed to remove {count} where nobody can be asked; --dry-run shows what goes.")
    if not as_json:
        _show(found)
    if dry_run:
        done = "Nothing was removed."
    elif not yes and not typer.confirm(f"Remove {counted(len(found), 'run')} from {results}?", err=True):
        typer.echo("Nothing was removed.", err=True)
        raise typer.Exit(1)
    else:
        remove_runs(store, [run.run_id for run in found])
        done = f"Removed {counted(len(found), 'run')} from {results}."
    typer.echo(json.dumps([_as_data(run) for run in found], indent=2) if as_json else done)


def _show(found: list[StoredRun]) -> None:
    from rich.filesize import decimal
    from rich.table import Table

    from vpbench.core.terminal import Terminal

    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("run_id", "status", "method", "dataset", "seed", "beside the row"):
        table.add_column(column, overflow="fold", no_wrap=column in ("run_id", "status"))
    for run in found:
        status = run.facts.get("status") or ("unreadable" if run.has_row else "no row")
        about = (str(run.facts.get(name, "")) for name in ("method", "dataset", "seed"))
        table.add_row(run.run_id[:8], status, *about, decimal(run.bytes_beside) if run.beside else "nothing")
    Terminal().print(table)


def _as_data(run: StoredRun) -> dict[str, Any]:
    return {**run.facts, "row": run.has_row, "beside": [str(path) for path in run.beside], "bytes": run.bytes_beside}
