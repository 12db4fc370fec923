"""Commands that refuse an option which is given twice, where the last one would win without a word, and a value that is empty, as
of a shell's variable that is not set, which would be read as the working folder; and groups of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any, TypeVar

import typer
from typer.core import TyperCommand, TyperGroup

from vpbench.cli.help_page import HelpPage
from vpbench.core.errors import UsageError

Command = TypeVar("Command", bound=Callable[..., Any])


class StrictCommand(HelpPage, TyperCommand):
    """A command each of whose options may be given once, but for flags and those that are repeatable."""

    def parse_args(self, context: Any, words: list[str]) -> list[str]:
        values, _, given = self.make_parser(context).parse_args(args=list(words))
        for option, times in Counter(given).items():
            once = option.param_type_name == "option" and not option.multiple and not getattr(option, "is_flag", False)
            if once and times > 1:
                several = "; several values go with commas" if "commas" in (getattr(option, "help", None) or "") else ""
                raise UsageError(f"{option.opts[0]} is given {times} times: give it once{several}.")
        for option in given:
            value = values.get(option.name)
            if "" in (value if isinstance(value, list | tuple) else (value,)):
                name = option.opts[0] if option.param_type_name == "option" else option.metavar or option.name.upper()
                raise UsageError(f"{name} is empty: give a value, or leave it out.")
        return super().parse_args(context, words)


class CommandGroup(HelpPage, TyperGroup):
    """Several commands below a word, with a page that lists them."""


class StrictTyper(typer.Typer):
    """An application of such commands."""

    def command(self, *names: Any, **options: Any) -> Callable[[Command], Command]:
        return super().command(*names, **{"cls": StrictCommand, **options})


def group_of_commands(help: str) -> StrictTyper:
    """A group that lists its commands when none is named."""
    return StrictTyper(help=help, cls=CommandGroup, add_completion=False, invoke_without_command=True, callback=_list_commands)


def _list_commands(context: typer.Context) -> None:
    """What can follow the group's name, a line each."""
    if context.invoked_subcommand is not None:
        return
    group: Any = context.command
    typer.echo(f"{group.help} Usage: {context.command_path} COMMAND, which is one of")
    width = max(map(len, group.commands))
    for name, command in group.commands.items():
        typer.echo(f"  {name:{width}}  {(command.help or '').strip().splitlines()[0]}")
    typer.echo(f"Examples and options: {context.command_path} {next(iter(group.commands))} --help")
