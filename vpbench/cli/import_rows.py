"""``vpbench import``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from vpbench.store.importing import Merge, Source

UNDECIDED = 1
CHOICES = ("keep", "replace")
SHOWN = 30  # conflicts in the terminal; --json has all
FILES = 3  # and files


def import_rows(
    sources: Annotated[list[Path], typer.Argument(metavar="SOURCE...", help="results folders, or files of 'vpbench export'")],
    results: Annotated[Path, typer.Option(metavar="FOLDER", help="Results folder that receives the rows.")] = Path(
        "results/runs"
    ),
    on_conflict: Annotated[
        str | None,
        typer.Option(metavar="CHOICE", help="Where a run has other numbers there: keep ours, or replace them by theirs."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, for programs.")] = False,
) -> None:
    """Take in the rows of another machine, with what lies beside them in its results folder.

    A run with the same results here and there is left as it is; one that went wrong here and well there is taken. Where a run
    has other numbers there, the two are shown, and nothing is written before --on-conflict says what to do.

    Examples:

    \b
      vpbench import /mnt/other/results/runs
      vpbench import a.parquet b.parquet --results results/all
      vpbench import a.parquet --on-conflict keep
    """
    from vpbench.store.importing import open_source

    check_choice(on_conflict)
    take_in([open_source(path) for path in sources], results, on_conflict, as_json)


def check_choice(on_conflict: str | None) -> None:
    """
    Raises:
        UsageError: for a value that --on-conflict does not have.
    """
    from vpbench.core.names import unknown

    if on_conflict is not None and on_conflict not in CHOICES:
        raise unknown("value of --on-conflict", on_conflict, CHOICES)


def take_in(opened: Sequence[Source], results: Path, on_conflict: str | None, as_json: bool) -> None:
    """Import from sources, and say what became of it.

    Raises:
        Exit: when runs have other numbers there, and nothing says what to do.
    """
    import json

    from vpbench.core.names import counted
    from vpbench.store.importing import add_missing_files, plan_merge, write_merge
    from vpbench.store.store import Store

    for line in (line for source in opened for line in source.found.left_out):
        typer.echo(f"warning: {line}", err=True)
    store = Store(results)
    merge = plan_merge(store, opened, replace=on_conflict == "replace")
    undecided = bool(merge.conflicts) and on_conflict is None
    busy = [] if undecided or not (merge.new or merge.better or merge.replaced) else write_merge(store, merge)
    added = [] if undecided else add_missing_files(store, opened)
    if as_json:
        facts = {"written": not undecided, "new": sorted(merge.new), "better": sorted(merge.better),
                 "replaced": sorted(merge.replaced), "same": merge.same, "conflicts": merge.conflicts, "busy": busy,
                 "files": added}  # fmt: skip
        typer.echo(json.dumps(facts, indent=2))
    else:
        tell(merge, str(results), undecided)
        if added:
            more = f" and {len(added) - FILES} more; --json lists all" if len(added) > FILES else ""
            typer.echo(f"{counted(len(added), 'file')} that runs lacked here: {', '.join(added[:FILES])}{more}")
    for run_id in busy:
        typer.echo(f"run {run_id} is left as it is: another command works on it.", err=True)
    if undecided:
        typer.echo(
            f"vpbench: {counted(len(merge.conflicts), 'run')} with other numbers there, so nothing was written: say "
            "--on-conflict keep or --on-conflict replace.",
            err=True,
        )
        raise typer.Exit(UNDECIDED)


def tell(merge: Merge, place: str, undecided: bool, ours: str = "here") -> None:
    """Show the conflicts of a merge, and what it has written to ``place``, ``ours``."""
    from rich.table import Table

    from vpbench.core.names import counted
    from vpbench.core.terminal import Terminal

    if merge.conflicts:
        table = Table(box=None, header_style="bold", pad_edge=False)
        for column in ("run", "method", "dataset", "seed", "column", "here", "there", "source"):
            table.add_column(column, overflow="fold")
        for conflict in merge.conflicts[:SHOWN]:
            column, (here, there) = next(iter(conflict["differ"].items()))
            more = len(conflict["differ"]) - 1
            table.add_row(
                *(str(value) for value in (
                    conflict["run_id"][:8], conflict["method"], conflict["dataset"], conflict["seed"],
                    f"{column}, {more} more" if more else column, _short(here), _short(there), conflict["source"],
                ))
            )  # fmt: skip
        Terminal().print(table)
        if more := len(merge.conflicts) - SHOWN if len(merge.conflicts) > SHOWN else 0:
            typer.echo(f"... and {more} more; --json lists all.")
    if not undecided:
        kept = 0 if merge.replaced else len(merge.conflicts)
        others = {
            "in place of runs that went wrong": len(merge.better),
            "replaced": len(merge.replaced),
            "the same here and there": merge.same,
            f"that differ kept as {ours}": kept,
        }
        parts = [counted(len(merge.new), "new row"), *(f"{count} {what}" for what, count in others.items() if count)]
        typer.echo(f"{place}: {', '.join(parts)}.")


def _short(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
