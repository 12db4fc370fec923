"""``vpbench show``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vpbench.cli.options import number
from vpbench.cli.streams import warnings_as_lines

if TYPE_CHECKING:
    from vpbench.core.terminal import Terminal


def show(
    kind: Annotated[
        str, typer.Argument(help="method, recipe, dataset, suite, backbone, search or run", metavar="KIND", show_default=False)
    ] = "",
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME",
            help="its name, a recipe's method, or a run's id (its first digits are enough); without one, the latest runs",
            show_default=False,
        ),
    ] = None,
    results: Annotated[Path, typer.Option(metavar="FOLDER", help="Results folder, for runs.")] = Path("results/runs"),
    backbone: Annotated[
        str | None, typer.Option(metavar="NAME", help="Count a method's parameters on this backbone, without its weights.")
    ] = None,
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="METHOD.OPTION=VALUE", help="An option of the method, or recipe.FIELD. Repeatable."),
    ] = None,
    suite: Annotated[str | None, typer.Option(metavar="NAME", help="Whose protocol a recipe is shown for.")] = None,
    dataset: Annotated[str | None, typer.Option(metavar="NAME", help="Data set of the suite, for its own values.")] = None,
    image_size: Annotated[int | None, number("--image-size", 1, "Pixels, of the backbone.")] = None,
    classes: Annotated[int, number("--classes", 1, "Classes of the head that is counted.")] = 100,
    as_command: Annotated[
        bool, typer.Option("--as-command", help="Of a run: the command that repeats it, alone on stdout.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, for programs.")] = False,
) -> None:
    """Show everything about one entry: options with their sources, presets with every difference, a run's whole row.

    Examples:

    \b
      vpbench show method insvp
      # parameters, tensor by tensor
      vpbench show method lora --backbone vit-b16-in21k --set lora.rank=16
      # every value of the training and where it comes from
      vpbench show recipe vpt --suite fgvc --dataset cub
      # the latest runs with their ids, which 'predict', 'export' and 'rm' take
      vpbench show run
      vpbench show run 3fa9
      # what to type to run it again, on another machine say
      vpbench show run 3fa9 --as-command
    """
    import json

    from vpbench.cli.list_runs import list_runs
    from vpbench.core.errors import UsageError
    from vpbench.reporting.describe import describe, describe_method, in_words, without_empty
    from vpbench.reporting.describe_recipe import describe_recipe
    from vpbench.spec.parsing import settings_of

    if not kind:
        raise UsageError("say what to show: vpbench show method, recipe, dataset, suite, backbone, search or run, and a name.")
    if kind != "method" and (backbone is not None or (setting and kind != "recipe")):
        raise UsageError(f"--backbone and --set are for 'vpbench show method NAME', not for a {kind}.")
    if kind != "recipe" and (suite or dataset):
        raise UsageError(f"--suite and --dataset are for 'vpbench show recipe METHOD', not for a {kind}.")
    if as_command and (kind != "run" or as_json):
        raise UsageError("--as-command is for 'vpbench show run ID', without --json.")
    if name is None:
        if kind != "run":
            raise UsageError(f"show {kind}: say its name behind it; 'vpbench list' shows the names, 'vpbench show run' the runs.")
        if as_command:
            raise UsageError("--as-command is for one run: say its id; 'vpbench show run' shows the ids.")
        list_runs(results, as_json)
        return
    with warnings_as_lines():
        if kind == "recipe":
            facts = describe_recipe(name, suite, dataset, settings_of(setting or []))
        elif kind == "method":
            facts = describe_method(name, settings_of(setting or []), backbone, image_size, classes)
        else:
            facts = describe(kind, name, results)
    if as_command:
        typer.echo(facts["repeat_with"])
        for note in facts.get("repeat_notes", ()):
            typer.echo(f"note: {note}", err=True)
        return
    if as_json:
        typer.echo(json.dumps(facts, indent=2, default=str))
        return
    from vpbench.core.terminal import Terminal

    terminal = Terminal()
    if kind == "run":
        from vpbench.reporting.describe_run import for_readers

        facts = for_readers(facts)
    for key, value in without_empty(in_words(facts)).items():
        _print(terminal, key, value)


def _print(terminal: Terminal, key: str, value: Any) -> None:
    """One fact, by the name that ``--set`` and programs use: a line, an indented block, or a table of alike entries."""
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    title = Text(key, style="bold")
    if isinstance(value, list) and value and all(isinstance(entry, dict) for entry in value):
        nested = [inner for inner in value[0] if isinstance(value[0][inner], list)]
        terminal.print("\n", title, sep="")
        if nested:  # presets: each its own block, because it holds a table
            for entry in value:
                for inner, content in entry.items():
                    _print(terminal, inner, content)
            return
        table = Table(header_style="dim", box=None, pad_edge=False, padding=(0, 2, 0, 0))
        for column in value[0]:
            table.add_column(column, overflow="fold")
        for entry in value:
            table.add_row(*(str(content) for content in entry.values()))
        terminal.print(Padding(table, (0, 0, 0, 2), expand=False))
    elif isinstance(value, dict):
        terminal.print(title)
        for inner, content in value.items():
            terminal.print(f"  {inner}: {content}")
    elif isinstance(value, list) and value and any(len(str(entry)) > 30 for entry in value):
        terminal.print(title)
        for entry in value:
            terminal.print(f"  - {entry}")
    else:
        text = ", ".join(map(str, value)) if isinstance(value, list) else value
        terminal.print(Text.assemble(title, f": {text}"))
