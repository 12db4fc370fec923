"""The runs of a results folder by their ids, for ``vpbench show run`` without one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer

MOST = 20  # rows of the table


def list_runs(results: Path, as_json: bool) -> None:
    """The latest runs as a table, or all of them as JSON.

    Raises:
        StoreError: when there is no such folder.
    """
    import json

    from vpbench.cli.listing import print_entries
    from vpbench.core.names import counted
    from vpbench.store.find_run import SHORT, latest_runs
    from vpbench.store.store import Store

    store = Store(results)
    store.check_there()
    runs, left_out = latest_runs(store)
    for line in left_out:
        typer.echo(line, err=True)
    if as_json:
        typer.echo(json.dumps(runs, indent=2, default=str))
        return
    print_entries([_entry(run, SHORT) for run in runs[-MOST:]])
    shown = f"The latest {MOST} of {len(runs)} runs" if len(runs) > MOST else counted(len(runs), "run")
    typer.echo(f"{shown} in {results}. The first digits of an id are enough: vpbench show run RUN.")


def _entry(run: dict[str, Any], digits: int) -> dict[str, Any]:
    score, is_trial = (run["val_score"], True) if run["stage"] == "search" else (run["score"], False)
    return {
        "run": run["run_id"][:digits],
        **{name: run[name] for name in ("method", "dataset", "backbone", "seed")},
        "score": "-" if score is None else f"{score:.1f}{' (val)' if is_trial else ''}",
        "status": run["status"],
    }
