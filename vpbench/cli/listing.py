"""``vpbench list``."""

from __future__ import annotations

from typing import Annotated

import typer


def list_entries(
    kind: Annotated[str, typer.Argument(help="methods, datasets, suites or backbones", metavar="KIND")],
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, for programs.")] = False,
) -> None:
    """List what there is by name.

    Examples:

    \b
      vpbench list methods
      vpbench list datasets --json
    """
    import json

    from vpbench.describe import listing

    entries = listing(kind)
    if as_json:
        typer.echo(json.dumps(entries, indent=2))
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in entries[0] if entries else ():
        table.add_column(column.replace("_", " "), overflow="fold", no_wrap=column == "name")
    for entry in entries:
        cells = (", ".join(map(str, value)) if isinstance(value, list) else str(value) for value in entry.values())
        table.add_row(*map(escape, cells))
    Console().print(table)
    if kind == "backbones":
        typer.echo("Every VisionTransformer of timm works by its name too, e.g. vit_base_patch16_224.")
