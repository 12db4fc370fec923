"""A bar for measuring, on the terminal or in a notebook."""

from __future__ import annotations

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from vpbench.core.terminal import Terminal
from vpbench.measure.costs import Costs


def measure_all(costs: Costs, watched: bool | None = None) -> bool:
    """Do all steps, with a bar on stderr.

    Args:
        watched: whether there is a bar; None: on a terminal and in a notebook.

    Returns:
        whether they came to their end; False when Ctrl-C was before.
    """
    console = Terminal(stderr=True)
    shown = console.is_terminal or console.is_jupyter if watched is None else watched
    progress = Progress(
        TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("ETA"),
        TimeRemainingColumn(), console=console, transient=True, disable=not shown,
    )  # fmt: skip
    try:
        with progress:
            bar = progress.add_task("", total=len(costs))
            for done, text in enumerate(costs.steps()):
                progress.update(bar, description=text, completed=done)
    except KeyboardInterrupt:
        return False
    return True
