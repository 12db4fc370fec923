"""``vpbench logs``."""

from __future__ import annotations

from typing import Annotated

import typer

from vpbench.cli import options


def logs(
    run: Annotated[str, typer.Argument(help="a run's id; its first digits are enough", metavar="RUN")],
    results: options.Results = options.RESULTS,
) -> None:
    """Show what a run's worker process printed, and the error and traceback of a run that went wrong.

    A run in the command's own process (--executor inline) prints to the terminal, so only its error is kept.

    Examples:

    \b
      vpbench logs 3fa9
    """
    from vpbench.store.find_run import find_run_id
    from vpbench.store.store import Store

    store = Store(results)
    store.check_there()
    stored = {row["run_id"]: row["error"] for row in store.read_columns(["run_id", "error"])}
    known = {path.stem for path in store.logs_folder.glob("*.log")} | stored.keys()
    run_id = find_run_id(store, run, sorted(known))
    path, error = store.log_path(run_id), (stored.get(run_id) or "").rstrip()
    printed = path.read_text(errors="replace").rstrip() if path.is_file() else ""
    if printed:
        typer.echo(printed)
    if error and error not in printed:
        typer.echo(error)
    if not printed and not error:
        typer.echo(f"run {run_id} printed nothing and has no error.", err=True)
