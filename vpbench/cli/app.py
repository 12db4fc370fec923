"""The ``vpbench`` command: one module per verb. Libraries are imported when a verb is used."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperCommand, TyperGroup

from vpbench.cli.completion import VARIABLE
from vpbench.cli.help_page import HelpPage
from vpbench.cli.streams import guarded_streams, plain_warnings
from vpbench.cli.strict import StrictTyper
from vpbench.core.version import __version__

INTERRUPTED = 130
_ClickError: Any = typer.BadParameter.__bases__[0]  # UsageError of click, or of the copy of it that later versions of typer have

# By name, in the order of the help: where the command is, and the first line of its help. Only the one that is used is imported.
COMMANDS = {
    "run": (
        "run:run",
        "Train and measure methods; what is stored already is skipped, so the same command continues an interrupted one.",
    ),
    "measure": (
        "measure:measure",
        "Measure what methods cost: parameters, operations, time and memory, with random weights and without any training.",
    ),
    "tune": (
        "tune:tune",
        "Search settings on validation images, with the same budget for every method on every data set; then run what wins.",
    ),
    "report": ("report:report", "Show the stored runs as a table or a figure. Reads the results folder and nothing else."),
    "check": (
        "check:check",
        "Compare a small grid of runs with a baseline; exit 1 when a number is outside of what the baseline allows.",
    ),
    "predict": ("predict:predict", "Say what is on new images, with a trained model of 'vpbench run'."),
    "list": ("listing:list_entries", "List what there is by name."),
    "show": (
        "show:show",
        "Show everything about one entry: options with their sources, presets with every difference, a run's whole row.",
    ),
    "status": ("status:status", "Show what runs now and where, what is done, what went wrong, and how long the rest will take."),
    "logs": ("logs:logs", "Show what a run's worker process printed, and the error and traceback of a run that went wrong."),
    "compact": (
        "compact:compact",
        "Put the rows of a results folder, one file each, into one file: thousands of rows are then read at once.",
    ),
    "export": ("export:export", "Write a run's trained model for other programs, or the rows of all runs to one file."),
    "import": (
        "import_rows:import_rows",
        "Take in the rows of another machine, with what lies beside them in its results folder.",
    ),
    "push": (
        "push:push",
        "Share trained models, or the rows of a results folder, on the Hugging Face hub. HF_TOKEN must be set.",
    ),
    "pull": ("pull:pull", "Take in what others have shared on the Hugging Face hub: rows, or models with their rows."),
    "rm": (
        "rm:rm",
        "Remove runs from a results folder: their rows, also compacted ones, and their artefacts, checkpoints and logs.",
    ),
    "data": ("data:app", "List, fetch, check and convert published data sets."),
    "completion": (
        "completion:completion",
        "Print the script that lets a shell complete commands, options and names with the tab key.",
    ),
    "new": ("new:app", "Write a file of your own to start from, which works at once."),
}


class InterruptError(Exception):
    """Ctrl-C, by a name of our own: typer would end the program without a word, or with one that depends on its version."""


class LazyCommand(TyperCommand):
    """A command or a group of them that is imported when it is used; the list of commands needs its name and a line alone."""

    def __init__(self, name: str, place: str, help: str) -> None:
        super().__init__(name, help=help)
        self._place = place

    def built(self) -> Any:
        """The command with its options, or the group with its commands."""
        module, _, attribute = self._place.partition(":")
        found = getattr(import_module(f"vpbench.cli.{module}"), attribute)
        if isinstance(found, typer.Typer):
            return typer.main.get_command(found)
        own = StrictTyper(pretty_exceptions_enable=False, add_completion=False)
        own.command(self.name)(found)
        return typer.main.get_command(own)

    def make_context(self, *words: Any, **more: Any) -> Any:
        with _usage_in_a_line(f"vpbench {self.name}"):
            return self.built().make_context(*words, **more)


class Commands(HelpPage, TyperGroup):
    """All commands of :data:`COMMANDS`. ``--cards`` may stand anywhere."""

    def __init__(self, **more: Any) -> None:
        super().__init__(**{**more, "commands": {name: LazyCommand(name, *about) for name, about in COMMANDS.items()}})

    def parse_args(self, context: Any, words: list[str]) -> list[str]:
        end = words.index("--") if "--" in words else len(words)
        places = [at for at in range(end) if words[at] == "--cards" or words[at].startswith("--cards=")]
        taken = {at for place in places for at in range(place, place + (1 if "=" in words[place] else 2))}
        front = [words[at] for at in sorted(taken) if at < len(words)]
        return super().parse_args(context, front + [word for at, word in enumerate(words) if at not in taken])

    def make_context(self, *words: Any, **more: Any) -> Any:
        with _usage_in_a_line():
            return super().make_context(*words, **more)

    def invoke(self, context: Any) -> Any:
        try:
            with _usage_in_a_line():
                return super().invoke(context)
        except KeyboardInterrupt as error:
            raise InterruptError from error


@contextmanager
def _usage_in_a_line(command: str = "vpbench") -> Iterator[None]:
    """A missing argument, an unknown option and the like as an error of ours, where typer prints several lines or a box."""
    from vpbench.core.errors import UsageError

    try:
        yield
    except _ClickError as error:
        if type(error).__name__ == "NoArgsIsHelpError":
            raise
        text = _without_such_option(error) or error.format_message().rstrip(".")
        if text.startswith("Missing") and (about := getattr(getattr(error, "param", None), "help", None)):
            text = f"{text}: {about.rstrip('.')}"
        where = command if error.ctx is None else error.ctx.command_path
        raise UsageError(f"{text[:1].lower()}{text[1:]}{'' if text.endswith('?') else '.'} See {where} --help.") from error


def _without_such_option(error: Any) -> str:
    """The sentence for an unknown option, which each version of click words in its own way; "" for other errors."""
    from vpbench.core.names import closest

    if not (name := getattr(error, "option_name", None)) or "o such option" not in error.format_message():
        return ""
    known = [option for parameter in error.ctx.command.params for option in parameter.opts] if error.ctx else []
    return f"no such option {name}" + (f". Did you mean {close}?" if (close := closest(name, known)) else "")


app = typer.Typer(
    cls=Commands,
    help="Compare ways of adapting a frozen vision transformer.",
    epilog="First steps: 'vpbench run' needs nothing but this package; then 'vpbench report --table 1'.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"max_content_width": 110},
)


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
        from vpbench.core.errors import UsageError
        from vpbench.core.user_files import add_places
        from vpbench.core.user_folders import user_path

        if context.invoked_subcommand == "new":  # which may fill a folder that is not there yet
            user_path(cards[0]).mkdir(parents=True, exist_ok=True)
        if absent := next((given for given in cards if not user_path(given).exists()), None):
            raise UsageError(f"--cards {absent}: there is no such folder; correct it, or create it.")
        add_places(cards)


def main() -> NoReturn:
    """Run the command line; a user's mistake is one line on stderr and an exit code, never a traceback."""
    with guarded_streams(), plain_warnings():
        sys.exit(_run())


def _run() -> int:
    """Run the command; its exit code, unless it ends the process itself."""
    from vpbench.core.errors import VpbenchError
    from vpbench.core.escaping import visible

    if VARIABLE in os.environ:  # the tab key: typer's own classes, which its scripts expect
        from typer.completion import completion_init  # type: ignore[attr-defined]

        completion_init()
    try:
        app(prog_name="vpbench")
    except VpbenchError as error:
        typer.echo(f"vpbench: {visible(' '.join(str(error).split()))}", err=True)
        return error.exit_code
    except InterruptError:
        typer.echo("vpbench: interrupted; finished runs are stored, the same command continues.", err=True)
        return INTERRUPTED
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output has gone, as with `vpbench list | head`
    return 0
