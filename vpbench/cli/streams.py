"""What a command writes to stdout and stderr: control characters are shown, not sent, whoever writes them."""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer

from vpbench.core.escaping import visible
from vpbench.core.user_warning import VpbenchWarning

PACKAGE = Path(__file__).parents[1]

# How tqdm, with which libraries show downloads, returns to the lines of its bars; it ends no line in the same call.
_REDRAWN = re.compile(r"(?:\r|\n|\x1b\[A)*")


class GuardedStream:
    """A text stream that writes control characters as text (``\\x1b``).

    Attributes:
        rich_proxied_file: the stream itself, where rich writes its own escape codes; :class:`vpbench.core.terminal.Terminal`
            guards what it prints.
    """

    def __init__(self, stream: Any) -> None:
        self.rich_proxied_file = stream

    def write(self, text: str) -> int:
        bar = "" if text.endswith("\n") else _REDRAWN.match(text)[0]  # type: ignore[index]
        self.rich_proxied_file.write(bar + visible(text[len(bar) :].replace("\r\n", "\n")))
        return len(text)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        if name == "buffer":  # bytes would go past the guard
            raise AttributeError(name)
        return getattr(self.rich_proxied_file, name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.rich_proxied_file)


@contextmanager
def guarded_streams() -> Iterator[None]:
    """Everything that is written in the block passes a guard."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (GuardedStream(stream) for stream in before)  # type: ignore[assignment]
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


@contextmanager
def plain_warnings() -> Iterator[None]:
    """Warnings of vpbench are written as one line, at once; those of other libraries with the place that they are from."""
    usual = warnings.formatwarning

    def written(message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None) -> str:
        if issubclass(category, VpbenchWarning) or Path(filename).is_relative_to(PACKAGE):
            return f"warning: {' '.join(str(message).split())}\n"
        return usual(message, category, filename, lineno, line)

    warnings.formatwarning = written
    try:
        yield
    finally:
        warnings.formatwarning = usual


@contextmanager
def warnings_as_lines() -> Iterator[None]:
    """Print each warning, such as a broken result file, as one line on stderr."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        try:
            yield
        finally:
            for warning in caught:
                typer.echo(f"warning: {' '.join(str(warning.message).split())}", err=True)


def write_styled(text: str) -> None:
    """Write text with escape codes of our own, whose names are escaped already, to stdout."""
    stream = getattr(sys.stdout, "rich_proxied_file", sys.stdout)
    stream.write(text)
    stream.flush()
