"""``vpbench export``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vpbench.cli import options

_Only = "Take only this {}; several with commas."


def export(
    to: Annotated[Path, typer.Option("--to", metavar="FILE", help="What to write: FILE.parquet or FILE.csv.")],
    results: options.Results = options.RESULTS,
    dataset: Annotated[str | None, typer.Option(help=_Only.format("data set"))] = None,
    suite: Annotated[str | None, typer.Option(help=_Only.format("suite"))] = None,
    backbone: Annotated[str | None, typer.Option(help=_Only.format("backbone"))] = None,
    method: Annotated[str | None, typer.Option(help=_Only.format("method"))] = None,
    seed: Annotated[int | None, typer.Option(help="Take only this seed.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="What was written, as JSON, for programs.")] = False,
) -> None:
    """Write the rows to one file, for another program or for 'vpbench import' on another machine.

    Examples:

    \b
      vpbench export --to rows.parquet
      vpbench export --to vpt.csv --method vpt --suite mini
    """
    import json

    import pyarrow as pa
    import pyarrow.compute as pc

    from vpbench.core.errors import StoreError
    from vpbench.core.names import counted
    from vpbench.reporting.frame import Filters
    from vpbench.store.exporting import write_export, writer_for
    from vpbench.store.store import Store, as_frame

    writer_for(to)
    rows = Store(results).read()
    for line in rows.left_out:
        typer.echo(f"warning: {line}", err=True)
    if not len(rows.table):
        raise StoreError(f"no runs in {results}; --results chooses another folder.")
    keep = Filters.of(dataset, suite, backbone, method, seed)
    chosen = keep.apply(as_frame(rows.table.select(["run_id", "dataset", "suite", "backbone", "method", "seed"])))
    table = rows.table.filter(pc.is_in(rows.table["run_id"], pa.array(chosen["run_id"])))
    write_export(table, to)
    if as_json:
        typer.echo(json.dumps({"file": str(to), "rows": len(table)}))
    else:
        hint = f" To read it into another folder: vpbench import {to.name}" if to.suffix == ".parquet" else ""
        typer.echo(f"{counted(len(table), 'row')} in {to}.{hint}")
