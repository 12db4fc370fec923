"""``vpbench show``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from vpbench.cli.warning_lines import warnings_as_lines


def show(
    kind: Annotated[str, typer.Argument(help="method, dataset, suite, backbone, search or run", metavar="KIND")],
    name: Annotated[str, typer.Argument(help="its name, or a run's id (its first digits are enough)")],
    results: Annotated[Path, typer.Option(metavar="FOLDER", help="Results folder, for runs.")] = Path("results/runs"),
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, for programs.")] = False,
) -> None:
    """Show everything about one entry: options with their sources, presets with every difference, a run's whole row.

    Examples:

    \b
      vpbench show method insvp
      vpbench show run 3fa9
    """
    import json

    from vpbench.reporting.describe import describe, in_words

    with warnings_as_lines():
        facts = describe(kind, name, results)
    if as_json:
        typer.echo(json.dumps(facts, indent=2, default=str))
        return
    from rich.console import Console

    console = Console()
    for key, value in in_words(facts).items():
        _print(console, key, value)


def _print(console: Any, key: str, value: Any) -> None:
    """One fact: a line, an indented block, or a table where it is a list of alike entries."""
    from rich.markup import escape
    from rich.padding import Padding
    from rich.table import Table

    title = f"[bold]{escape(key.replace('_', ' '))}[/bold]"
    if isinstance(value, list) and value and all(isinstance(entry, dict) for entry in value):
        nested = [inner for inner in value[0] if isinstance(value[0][inner], list)]
        console.print(f"\n{title}")
        if nested:  # presets: each its own block, because it holds a table
            for entry in value:
                for inner, content in entry.items():
                    _print(console, inner, content)
            return
        table = Table(header_style="dim", box=None, pad_edge=False, padding=(0, 2, 0, 0))
        for column in value[0]:
            table.add_column(column, overflow="fold")
        for entry in value:
            table.add_row(*(escape(str(content)) for content in entry.values()))
        console.print(Padding(table, (0, 0, 0, 2)))
    elif isinstance(value, dict):
        console.print(title)
        for inner, content in value.items():
            console.print(f"  {escape(inner.replace('_', ' '))}: {escape(str(content))}", highlight=False)
    elif isinstance(value, list) and value and any(len(str(entry)) > 30 for entry in value):
        console.print(title)
        for entry in value:
            console.print(f"  - {escape(str(entry))}", highlight=False)
    else:
        text = ", ".join(map(str, value)) if isinstance(value, list) else value
        console.print(f"{title}: {escape(str(text))}", highlight=False)
