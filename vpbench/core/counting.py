"""How far long work is: a bar where a person watches, and a line now and then where a log is written."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from vpbench.core.terminal import Terminal

EVERY_S = 10.0  # between two lines of a log


class Lines:
    """Prints a line now and then: the first only after a while, so that short work prints nothing."""

    def __init__(self, console: Terminal) -> None:
        self._console, self._last = console, 0.0

    def show(self, line: str) -> None:
        now = time.monotonic()
        self._last = self._last or now
        if now - self._last >= EVERY_S:
            self._last = now
            self._console.print(line, soft_wrap=True)


class Counter(Protocol):
    """Takes how many are done, of how many (None: unknown), and what is being done now."""

    def __call__(self, done: int, total: int | None, text: str = "") -> None: ...


@contextmanager
def counting(title: str, quiet: bool = False) -> Iterator[Counter]:
    """A bar on stderr with the time that is left; without a terminal, a line now and then.

    Args:
        title: what is counted.
        quiet: neither of them.
    """
    # Imported here: a quiet command need not wait for rich's bars.
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    console = Terminal(stderr=True)
    lines = Lines(console)
    bar = Progress(
        TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
        TextColumn("ETA"), TimeRemainingColumn(), console=console, transient=True, disable=quiet or not console.is_terminal,
    )  # fmt: skip
    task = bar.add_task(title, total=None, visible=False)

    def show(done: int, total: int | None, text: str = "") -> None:
        named = f"{title}, {text}" if text else title
        bar.update(task, description=named, completed=done, total=total, visible=True)
        if not quiet and not console.is_terminal:
            lines.show(f"{named}: {done}" + ("" if total is None else f" of {total}"))

    with bar:
        yield show
