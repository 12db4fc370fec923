"""Help pages as plain text, filled to the width of the terminal and the same with every version of typer."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator
from pathlib import Path
from textwrap import wrap
from typing import Any

WIDEST = 30  # of the left column; what is longer has a line of its own
NO_BREAK = "\u00a0"


class HelpPage:
    """A command or a group with such a page; to be named before typer's class."""

    def format_help(self, context: Any, formatter: Any) -> None:
        formatter.write("\n".join(_page(self, context, formatter.width)) + "\n")

    def collect_usage_pieces(self, context: Any) -> list[str]:
        arguments = [_argument(each) for each in _of_kind(self, "argument")]
        return ["[OPTIONS]", *arguments, *(["COMMAND ..."] if hasattr(self, "commands") else [])]


def _page(command: Any, context: Any, width: int) -> Iterator[str]:
    yield from wrap(f"Usage: {context.command_path} {' '.join(command.collect_usage_pieces(context))}", width)
    yield from filled(command.help or "", width)
    commands = {name: _first_paragraph(each.help) for name, each in getattr(command, "commands", {}).items()}
    options = [*_of_kind(command, "option"), *filter(None, [command.get_help_option(context)])]
    for title, rows in (
        ("Arguments", [(_label(each), each.help or "") for each in _of_kind(command, "argument")]),
        ("Options", [(_spelled(each), _about(each)) for each in options]),
        ("Commands", list(commands.items())),
    ):
        if rows:
            yield from ("", f"{title}:", *_columns(rows, width))
    yield from filled(command.epilog or "", width)


def filled(text: str, width: int) -> Iterator[str]:
    """Paragraphs filled to the width, with an empty line before each; one behind a backspace stays as it is written."""
    for paragraph in filter(None, inspect.cleandoc(text).split("\n\n")):
        if paragraph.startswith("\b"):  # examples, directly below their heading
            yield from paragraph.removeprefix("\b").strip("\n").splitlines()
        else:
            yield from ("", *_wrapped(paragraph, width))


def _columns(rows: Iterable[tuple[str, str]], width: int) -> Iterator[str]:
    """Lines of names and what they are."""
    rows = list(rows)
    left = min(WIDEST, max(len(name) for name, _ in rows))
    for name, about in rows:
        lines = _wrapped(about, width - left - 4)
        if len(name) > left:
            yield f"  {name}"
            name = ""
        for line in lines or [""]:
            yield f"  {name:{left}}  {line}".rstrip()
            name = ""


def _wrapped(text: str, width: int) -> list[str]:
    """Lines in which no name and no default is cut."""
    lines = wrap(text, width, break_on_hyphens=False, break_long_words=False)
    return [line.replace(NO_BREAK, " ") for line in lines]


def _of_kind(command: Any, kind: str) -> list[Any]:
    return [each for each in command.params if each.param_type_name == kind and not getattr(each, "hidden", False)]


def _label(argument: Any) -> str:
    name = str(argument.metavar or argument.name.upper())
    return name if argument.nargs == 1 or "..." in name else f"{name}..."


def _argument(argument: Any) -> str:
    return _label(argument) if argument.required else f"[{_label(argument)}]"


def _spelled(option: Any) -> str:
    """``-y, --yes`` or ``--results FOLDER``."""
    names = ", ".join(sorted(option.opts, key=len))
    return names if option.is_flag else f"{names} {option.metavar or 'VALUE'}"


def _about(option: Any) -> str:
    """The help of an option, with its default where that is shown."""
    default = option.default
    is_shown = option.show_default and isinstance(default, str | int | float | Path) and not isinstance(default, bool)
    return " ".join(
        [
            option.help or "",
            *([f"[default:{NO_BREAK}{default}]"] if is_shown else []),
            *(["[required]"] if option.required else []),
        ]
    )


def _first_paragraph(text: str | None) -> str:
    return inspect.cleandoc(text or "").split("\n\n")[0]
