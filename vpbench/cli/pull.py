"""``vpbench pull``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def pull(
    repository: Annotated[str, typer.Argument(metavar="REPO", help="owner/name, as 'vpbench push' has made it; @REVISION")],
    results: Annotated[Path, typer.Option(metavar="FOLDER", help="Results folder that receives the rows.")] = Path(
        "results/runs"
    ),
    on_conflict: Annotated[
        str | None,
        typer.Option(metavar="CHOICE", help="Where a run has other numbers there: keep ours, or replace them by theirs."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, for programs.")] = False,
) -> None:
    """Take in what others have shared on the Hugging Face hub: rows, or models with their rows.

    What comes is checked like the results of another machine ('vpbench import'): rows that cannot be results, files that are not
    what their checksums say, and names that lead elsewhere are refused. HF_TOKEN opens private repositories.

    Examples:

    \b
      # rows, for vpbench report --table 1 --results results/lab
      vpbench pull lab/leaderboard --results results/lab
      vpbench pull me/vpt-flowers  # a model, for vpbench predict RUN photos/
    """
    from vpbench.cli.import_rows import check_choice, take_in
    from vpbench.sharing.fetch_shared import fetched

    check_choice(on_conflict)
    with fetched(repository) as (found, source):
        typer.echo(f"{found.page}, revision {found.commit[:12]}", err=True)
        take_in([source], results, on_conflict, as_json)
