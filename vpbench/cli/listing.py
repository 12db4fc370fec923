"""``vpbench list``."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from vpbench.cli.streams import warnings_as_lines


def list_entries(
    kind: Annotated[str, typer.Argument(help="methods, datasets, suites, backbones or searches", metavar="KIND")],
    group: Annotated[str | None, typer.Option(metavar="GROUP", help="Methods of one group: partial, extra or prompts.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, for programs.")] = False,
) -> None:
    """List what there is by name.

    Examples:

    \b
      vpbench list methods
      vpbench list methods --group partial
      vpbench list datasets --json
    """
    import json

    from vpbench.reporting.describe import in_words, listing

    with warnings_as_lines():
        entries = listing(kind, group)
    if as_json:
        typer.echo(json.dumps(entries, indent=2))
        return
    print_entries([in_words(entry) for entry in entries])
    if kind == "backbones":
        typer.echo("Every ViT and Swin Transformer of timm works by its name too, e.g. vit_base_patch16_224.")


def print_entries(entries: list[dict[str, Any]]) -> None:
    """A table of alike entries. Numbers and names stay on one line; a long list is cut, and --json has all of it."""
    from rich.table import Table

    from vpbench.core.terminal import Terminal

    table = Table(box=None, header_style="bold", pad_edge=False)
    for column, value in (entries[0] if entries else {}).items():
        table.add_column(column.replace("_", " "), overflow="fold", no_wrap=column == "name" or isinstance(value, int))
    for entry in entries:
        table.add_row(*(_cell(value) for value in entry.values()))
    Terminal().print(table)


def _cell(value: Any, most: int = 5) -> str:
    if not isinstance(value, list):
        return str(value)
    more = f" and {len(value) - most} more" if len(value) > most else ""
    return ", ".join(map(str, value[:most])) + more
