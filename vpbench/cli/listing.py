"""``vpbench list``."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from vpbench.cli.streams import warnings_as_lines


def list_entries(
    kind: Annotated[str, typer.Argument(help="methods, datasets, suites, backbones, searches or tables", metavar="KIND")],
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
    """A table of alike entries, a line each. A long list is cut, and a terminal that is too narrow shows the first columns alone,
    the widest of them cut; --json has all of it, and so have other programs that read the table."""
    from rich.cells import cell_len
    from rich.table import Table

    from vpbench.core.escaping import one_line
    from vpbench.core.terminal import Terminal

    columns = {name: [one_line(_cell(entry[name])) for entry in entries] for name in (entries[0] if entries else {})}
    widths = {name: max(map(cell_len, [name, *texts])) for name, texts in columns.items()}
    terminal = Terminal()
    room = _fitted(widths, terminal.width) if terminal.is_terminal else widths
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name, width in room.items():
        table.add_column(name.replace("_", " "), overflow="ellipsis", no_wrap=True, width=width)
    for texts in zip(*(columns[name] for name in room)):
        table.add_row(*texts)
    terminal.width = sum(room.values()) + 2 * len(room)
    terminal.print(table)
    if len(room) < len(widths):
        left_out = ", ".join(name.replace("_", " ") for name in widths if name not in room)
        typer.echo(f"Not shown in this width: {left_out}; --json has all.")


def _fitted(widths: dict[str, int], width: int, least: int = 24) -> dict[str, int]:
    """The first columns, as many as a terminal of ``width`` has room for when the widest has ``least``, which gets the rest."""
    shown = dict(widths)
    while len(shown) > 2 and _needed(shown, least) > width:
        shown.popitem()
    widest = max(shown, key=lambda name: shown[name], default="")
    if widest:
        others = sum(shown.values()) - shown[widest]
        shown[widest] = max(1, min(shown[widest], width - others - 2 * len(shown)))
    return shown


def _needed(widths: dict[str, int], least: int) -> int:
    widest = max(widths.values())
    return sum(widths.values()) - widest + min(widest, least) + 2 * len(widths)


def _cell(value: Any, most: int = 5) -> str:
    if not isinstance(value, list):
        return str(value)
    more = f" and {len(value) - most} more" if len(value) > most else ""
    return ", ".join(map(str, value[:most])) + more
