"""A bar for measuring, on the terminal or in a notebook."""

from __future__ import annotations

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from vpbench.core.notebook_bar import NotebookBar
from vpbench.core.terminal import Terminal
from vpbench.measure.costs import Costs


def measure_all(costs: Costs, watched: bool | None = None) -> bool:
    """Do all steps, with a bar on stderr or in the notebook.

    Args:
        watched: False for no bar in a notebook either; None and True: where a person watches.

    Returns:
        whether they came to their end; False when Ctrl-C was before.
    """
    console = Terminal(stderr=True)
    in_notebook = NotebookBar() if console.is_jupyter and watched is not False and len(costs) else None
    progress = Progress(
        TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("ETA"),
        TimeRemainingColumn(), console=console, transient=True, disable=watched is False or not console.is_terminal,
    )  # fmt: skip
    try:
        with progress:
            bar = progress.add_task("", total=len(costs))
            for done, text in enumerate(costs.steps()):
                progress.update(bar, description=text, completed=done)
                if in_notebook is not None:
                    in_notebook.show(done, len(costs), f"steps; {text}")
        if in_notebook is not None:
            in_notebook.show(len(costs), len(costs), "steps")
    except KeyboardInterrupt:
        return False
    return True
