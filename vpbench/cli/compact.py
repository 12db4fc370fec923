"""``vpbench compact``."""

from __future__ import annotations

from typing import Annotated

import typer

from vpbench.cli import options


def compact(
    results: options.Results = options.RESULTS,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be merged, and stop.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, for programs.")] = False,
) -> None:
    """Put the rows of a results folder, one file each, into one file: thousands of rows are then read at once.

    Safe at any time: while runs write their rows and others read them, and if it is killed. Give it as often as you like.

    Examples:

    \b
      vpbench compact
      vpbench compact --results results/vtab --dry-run
    """
    import json

    from vpbench.core.escaping import one_line
    from vpbench.core.names import counted
    from vpbench.store.compacting import compact as merge_files
    from vpbench.store.compacting import to_compact
    from vpbench.store.store import Store

    store = Store(results)
    store.check_there()
    done = (to_compact if dry_run else merge_files)(store)
    for path, reason in done.broken:
        typer.echo(
            f"warning: {one_line(str(path))} is not a readable result and is left where it is: {one_line(reason)}", err=True
        )
    if as_json:
        facts = {"file": done.path and str(done.path), "rows": done.rows, "merged": done.merged, "left": done.left,
                 "broken": [str(path) for path, _ in done.broken]}  # fmt: skip
        typer.echo(json.dumps(facts, indent=2))
    elif not done.merged:
        typer.echo(f"{results}: nothing to merge.")
    elif done.path is None:
        typer.echo(f"{counted(done.rows, 'row')} of {counted(done.merged, 'file')} would be merged. Nothing was written.")
    else:
        size = done.path.stat().st_size / 1e6
        typer.echo(f"{counted(done.rows, 'row')} of {counted(done.merged, 'file')} are now in {done.path}, {size:.1f} MB.")
        if done.left:
            typer.echo(f"{counted(done.left, 'file')} beside it for runs that are under way.")
