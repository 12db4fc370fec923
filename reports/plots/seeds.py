"""Seed strips: one dot per seed, so that a reader sees whether a difference is larger than the scatter."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator

from vpbench.core.errors import StoreError
from vpbench.reporting.figures import SectionRuns, sections
from vpbench.reporting.frame import Filters
from vpbench.reporting.keys import RowKey
from vpbench.reporting.row_labels import row_label
from vpbench.reporting.styles import RowStyle, despine, figure_title, legend_below, row_styles
from vpbench.store.store import Store

PLACE = 40  # on a page
_COLUMNS = 3


def draw(store: Store, runs: pd.DataFrame, filters: Filters) -> Iterator[tuple[str, Figure]]:
    """One figure per group of comparable runs, named ``seeds_<backbone>``: a panel per data set.

    Raises:
        StoreError: when no run has an accuracy.
    """
    style = row_styles(runs)
    shown = [section for section in sections(runs, filters) if len(section.scored)]
    if not shown:
        raise StoreError(f"no run in {store.folder} has an accuracy; vpbench run --seeds 3 makes three of each.")
    for section in shown:
        yield f"seeds_{section.stem}", _figure(section, style)


def _figure(section: SectionRuns, style: dict[RowKey, RowStyle]) -> Figure:
    scored, rows = section.scored, section.rows
    datasets = [name for name in section.datasets if (scored["dataset"] == name).any()]
    columns = min(len(datasets), _COLUMNS)
    lines = -(-len(datasets) // columns)
    longest = max(len(row_label(row)) for row in rows)
    width = max(2.0 * columns + 0.065 * min(longest, 40) + 0.3, 4.2)
    figure = Figure(figsize=(width, lines * (0.24 * len(rows) + 0.75) + 1.0), layout=ConstrainedLayoutEngine(w_pad=0.1))
    axes = figure.subplots(lines, columns, squeeze=False, sharey=True)
    for ax, dataset in zip(axes.ravel(), datasets):
        _panel(ax, scored[scored["dataset"] == dataset], rows, style)
        ax.set_title(dataset)
    for ax in axes.ravel()[len(datasets) :]:
        ax.set_visible(False)
    for place, ax in enumerate(axes.ravel()[: len(datasets)]):
        if place >= len(datasets) - columns:
            ax.set_xlabel(section.score)
    figure_title(figure, f"Every seed: {section.title}")
    counts = scored.groupby(["row", "dataset"], sort=False)["seed"].nunique()
    seeds = "/".join(map(str, sorted(set(counts))))
    single = " One seed shows no scatter; --seeds 3 runs more." if counts.max() == 1 else ""
    legend_below(figure, f"A dot is a run, the bar the mean of its row; {seeds} seed{'' if seeds == '1' else 's'} each.{single}")
    return figure


def _panel(ax: Axes, scored: pd.DataFrame, rows: list[RowKey], style: dict[RowKey, RowStyle]) -> None:
    despine(ax, "x")
    for place, row in enumerate(rows):
        own = scored.loc[scored["row"] == row].sort_values("seed")["score"].to_numpy(dtype=float)
        if not len(own):
            continue
        row_style = style[row]
        ax.plot([own.mean()] * 2, [place - 0.32, place + 0.32], color=row_style.colour, linewidth=2, alpha=0.5)
        # A little above one another, as seeds often score alike.
        heights = place + (np.linspace(-0.2, 0.2, len(own)) if len(own) > 1 else np.zeros(1))
        ax.plot(own, heights, ls="", markersize=5, markeredgewidth=0.8, alpha=0.9, **row_style.marker_kwargs)
    labels = [row_label(row) for row in rows]
    ax.set_yticks(range(len(rows)), [label if len(label) <= 40 else f"{label[:39]}…" for label in labels])
    ax.set_ylim(len(rows) - 0.4, -0.6)
    ax.margins(x=0.1)
    low, high = ax.get_xlim()
    ax.set_xlim(max(low, -1), min(high, 101))  # percent, with room for a dot at the end
    ax.xaxis.set_major_locator(MaxNLocator(4))
