"""Figures by name, and how they become files. A figure is one module in ``reports/plots`` with a function ``draw``."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd
from matplotlib.figure import Figure

from vpbench.core.errors import UsageError
from vpbench.core.registry import Registry
from vpbench.reporting.files import write_whole
from vpbench.reporting.runs import Filters
from vpbench.store.folder import Store

# Given the store, its runs (one per row) and what to keep of them: pairs of a file name without suffix and a figure.
Draw = Callable[[Store, pd.DataFrame, Filters], Iterable[tuple[str, Figure]]]

# Text stays text in PDFs (type 42), and files of the same figure are equal: no date, no version in them.
_STYLE: dict[Any, Any] = {"font.size": 8, "axes.titlesize": 8, "legend.fontsize": 8, "figure.titlesize": 9, "pdf.fonttype": 42}
_METADATA: dict[str, dict[str, Any]] = {
    ".png": {"Software": None},
    ".pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}


def figure_registry() -> Registry[Draw]:
    """Every file in ``reports/plots``."""
    return Registry("plot", "vpbench.reports.plots", _pick)


def draw_figures(name: str, store: Store, runs: pd.DataFrame, filters: Filters, folder: Path) -> list[Path]:
    """Write the figures called ``name`` as PNG (150 dots per inch) and PDF into ``folder``; their paths.

    Raises:
        UsageError: for an unknown figure, or a folder that cannot be written.
        StoreError: when the store lacks what the figure needs.
    """
    draw = figure_registry().get(name)
    if folder.suffix in _METADATA:
        raise UsageError(f"--out {folder} names a file; figures need a folder, as each is written as PNG and as PDF.")
    paths = []
    with matplotlib.rc_context(_STYLE):
        for stem, figure in draw(store, runs, filters):
            paths += [_save(figure, folder / f"{stem}{suffix}") for suffix in _METADATA]
    return paths


def _save(figure: Figure, path: Path) -> Path:
    return write_whole(path, lambda partial: figure.savefig(partial, dpi=150, metadata=_METADATA[path.suffix]))


def _pick(name: str, module: Any) -> Draw:
    draw: Draw | None = getattr(module, "draw", None)
    if draw is None:
        raise UsageError(f"plot '{name}': {module.__file__} has no function 'draw'.")
    return draw
