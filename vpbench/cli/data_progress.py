"""The bar of ``vpbench data`` for bytes that are fetched."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import typer


@contextmanager
def stepwise(name: str) -> Iterator[Callable[[str, int, int | None], None]]:
    """A bar in bytes with the time that is left, on stderr; without a terminal, one line per step."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    from vpbench.core.terminal import Terminal

    console = Terminal(stderr=True)
    bar = Progress(
        TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(), TransferSpeedColumn(),
        TextColumn("ETA"), TimeRemainingColumn(), console=console, transient=True, disable=not console.is_terminal,
    )  # fmt: skip
    current: list[str] = []
    task = bar.add_task(name, total=None, start=False)

    def on_step(step: str, done: int, total: int | None) -> None:
        if current != [step]:
            current[:] = [step]
            if not console.is_terminal:
                typer.echo(f"{name}: {step}", err=True)
            bar.reset(task, description=f"{name}: {step}", total=total, completed=done)
        bar.update(task, completed=done, total=total)

    with bar:
        yield on_step
