"""``vpbench check --contribution``: rows that somebody wants to publish."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import typer

REFUSED = 1


def check_contribution(files: Sequence[Path], with_others: bool, as_json: bool) -> None:
    """Print what is wrong with each file, one line per fault; exit 1 when there is anything.

    Args:
        with_others: whether options were given that are for the regression gate.
    """
    import json

    from vpbench.checking.contribution import check_contributions
    from vpbench.core.errors import UsageError

    if with_others:
        raise UsageError("--contribution checks files of rows and runs nothing: leave out all other options but --json.")
    found = check_contributions(files)
    if as_json:
        facts = [{"file": str(each.path), "rows": each.rows, "faults": list(each.faults)} for each in found]
        typer.echo(json.dumps(facts, indent=2))
    else:
        for each in found:
            for fault in each.faults:
                typer.echo(f"{each.path}: {fault}.")
            if not each.faults:
                typer.echo(f"{each.path}: {each.content}: can be published.")
    if any(each.faults for each in found):
        raise typer.Exit(REFUSED)
