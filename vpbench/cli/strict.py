"""Commands that refuse an option which is given twice, where the last one would win without a word."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any, TypeVar

import typer
from typer.core import TyperCommand

from vpbench.core.errors import UsageError

Command = TypeVar("Command", bound=Callable[..., Any])


class StrictCommand(TyperCommand):
    """A command each of whose options may be given once, but for flags and those that are repeatable."""

    def parse_args(self, context: Any, words: list[str]) -> list[str]:
        _, _, given = self.make_parser(context).parse_args(args=list(words))
        for option, times in Counter(given).items():
            once = option.param_type_name == "option" and not option.multiple and not getattr(option, "is_flag", False)
            if once and times > 1:
                several = "; several values go with commas" if "commas" in (getattr(option, "help", None) or "") else ""
                raise UsageError(f"{option.opts[0]} is given {times} times: give it once{several}.")
        return super().parse_args(context, words)


class StrictTyper(typer.Typer):
    """A group of such commands."""

    def command(self, *names: Any, **options: Any) -> Callable[[Command], Command]:
        return super().command(*names, **{"cls": StrictCommand, **options})
