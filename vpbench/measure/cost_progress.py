"""The progress of measuring, on the terminal, in a log or in a notebook."""

from __future__ import annotations

from vpbench.core.counting import counting
from vpbench.core.notebook_bar import NotebookBar
from vpbench.core.terminal import Terminal
from vpbench.measure.costs import Costs


def measure_all(costs: Costs, watched: bool | None = None) -> bool:
    """Do all steps, with a bar or lines on stderr, or a bar in the notebook.

    Args:
        watched: False for none of them.

    Returns:
        whether they came to their end; False when Ctrl-C was before.
    """
    is_notebook = Terminal(stderr=True).is_jupyter
    in_notebook = NotebookBar() if is_notebook and watched is not False and len(costs) else None
    try:
        with counting("measuring", quiet=watched is False or is_notebook) as show:
            for done, text in enumerate(costs.steps()):
                show(done, len(costs), text)
                if in_notebook is not None:
                    in_notebook.show(done, len(costs), f"steps; {text}")
        if in_notebook is not None:
            in_notebook.show(len(costs), len(costs), "steps")
    except KeyboardInterrupt:
        return False
    return True
