"""The ``vpbench`` command: one module per verb. Libraries are imported when a verb is used."""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperCommand, TyperGroup

from vpbench.cli.check import check
from vpbench.cli.compact import compact
from vpbench.cli.completion import VARIABLE, completion
from vpbench.cli.data import app as data_app
from vpbench.cli.export import export
from vpbench.cli.import_rows import import_rows
from vpbench.cli.listing import list_entries
from vpbench.cli.logs import logs
from vpbench.cli.measure import measure
from vpbench.cli.new import app as new_app
from vpbench.cli.predict import predict
from vpbench.cli.report import report
from vpbench.cli.rm import rm
from vpbench.cli.run import run
from vpbench.cli.show import show
from vpbench.cli.status import status
from vpbench.cli.streams import guarded_streams
from vpbench.cli.strict import StrictTyper
from vpbench.cli.tune import tune
from vpbench.core.version import __version__

INTERRUPTED = 130

# By name, in the order of the help.
COMMANDS: dict[str, Callable[..., None]] = {
    "run": run, "measure": measure, "tune": tune, "report": report, "check": check, "predict": predict,
    "list": list_entries, "show": show, "status": status, "logs": logs, "compact": compact,
    "export": export, "import": import_rows, "rm": rm, "completion": completion,
}  # fmt: skip


class InterruptError(Exception):
    """Ctrl-C, by a name of our own: typer would end the program without a word, or with one that depends on its version."""


class LazyCommand(TyperCommand):
    """A command whose options are built when it is used; the list of commands needs its name and its help alone."""

    def __init__(self, name: str, function: Callable[..., None]) -> None:
        super().__init__(name, help=inspect.getdoc(function), rich_markup_mode="rich")
        self._function = function

    def built(self) -> Any:
        """The command with its options."""
        own = StrictTyper(pretty_exceptions_enable=False, add_completion=False, rich_markup_mode="rich")
        own.command(self.name)(self._function)
        return typer.main.get_command(own)

    def make_context(self, *words: Any, **more: Any) -> Any:
        return self.built().make_context(*words, **more)


class Commands(TyperGroup):
    """All commands: those of :data:`COMMANDS`, and the groups ``data`` and ``new``. ``--cards`` may stand anywhere."""

    def __init__(self, *, commands: dict[str, Any], **more: Any) -> None:
        lazy = {name: LazyCommand(name, function) for name, function in COMMANDS.items()}
        super().__init__(commands={**lazy, **commands}, **more)

    def parse_args(self, context: Any, words: list[str]) -> list[str]:
        end = words.index("--") if "--" in words else len(words)
        places = [at for at in range(end) if words[at] == "--cards" or words[at].startswith("--cards=")]
        taken = {at for place in places for at in range(place, place + (1 if "=" in words[place] else 2))}
        front = [words[at] for at in sorted(taken) if at < len(words)]
        return super().parse_args(context, front + [word for at, word in enumerate(words) if at not in taken])

    def invoke(self, context: Any) -> Any:
        try:
            return super().invoke(context)
        except KeyboardInterrupt as error:
            raise InterruptError from error


app = typer.Typer(
    cls=Commands,
    help="Compare ways of prompting a frozen vision transformer.",
    epilog="First steps: 'vpbench run' needs nothing but this package; then 'vpbench report --table 1'.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode="rich",
)
app.add_typer(data_app, name="data")
app.add_typer(new_app, name="new")


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"vpbench {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    context: typer.Context,
    cards: Annotated[
        list[str] | None,
        typer.Option(metavar="FOLDER", help="Your own cards and methods, with any command. See VPBENCH_PATH, vpbench.toml."),
    ] = None,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    if cards:
        from vpbench.core.user_files import add_places
        from vpbench.core.user_folders import user_path

        if context.invoked_subcommand == "new":  # which may fill a folder that is not there yet
            user_path(cards[0]).mkdir(parents=True, exist_ok=True)
        add_places(cards)


def main() -> NoReturn:
    """Run the command line; a user's mistake is one line on stderr and an exit code, never a traceback."""
    with guarded_streams():
        sys.exit(_run())


def _run() -> int:
    """Run the command; its exit code, unless it ends the process itself."""
    from vpbench.core.errors import VpbenchError
    from vpbench.core.escaping import visible

    if VARIABLE in os.environ:  # the tab key: typer's own classes, which its scripts expect
        from typer.completion import completion_init

        completion_init()
    try:
        app(prog_name="vpbench" if VARIABLE in os.environ else None)
    except VpbenchError as error:
        typer.echo(f"vpbench: {visible(' '.join(str(error).split()))}", err=True)
        return error.exit_code
    except InterruptError:
        typer.echo("vpbench: interrupted; finished runs are stored, the same command continues.", err=True)
        return INTERRUPTED
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output has gone, as with `vpbench list | head`
    return 0
