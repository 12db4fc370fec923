"""Methods by data sets: how many points of accuracy each adds to linear probing."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray

from vpbench.core.errors import StoreError
from vpbench.reporting.definition import leaderboard
from vpbench.reporting.figures import SectionRuns, sections
from vpbench.reporting.frame import Filters
from vpbench.reporting.keys import RowKey
from vpbench.reporting.row_labels import row_label
from vpbench.reporting.scores import score_title
from vpbench.reporting.styles import figure_title, legend_below, shortened
from vpbench.store.store import Store

PLACE = 20  # on a page
LETTERS = 40  # of a name; longer ones lose their middle
SLANT = 35  # degrees
ROOM = 0.3  # inches below the panel that names in one line take


def draw(store: Store, runs: pd.DataFrame, filters: Filters) -> Iterator[tuple[str, Figure]]:
    """One figure per group of comparable runs that has linear probing, named ``heatmap_<backbone>``.

    Raises:
        StoreError: when no group has linear probing and another method on the same data set.
    """
    drawn = False
    for section in sections(runs, filters):
        gains = gains_of(section)
        if np.isfinite(gains.to_numpy(dtype=float)).any():
            drawn = True
            yield f"heatmap_{section.stem}", _figure(section, gains)
    if not drawn:
        raise StoreError(
            f"{store.folder} has no linear probing beside another method on the same data set and protocol: "
            f"vpbench run --methods linear,vpt --results {store.folder}, and keep linear with --method."
        )


def gains_of(section: SectionRuns) -> pd.DataFrame:
    """Mean accuracy over seeds minus linear probing's on the same data set: a row per method, a column per data set.

    Without linear probing, or without other methods, the frame is empty.
    """
    reference = RowKey(leaderboard().reference)
    means = section.scored.pivot_table(index="row", columns="dataset", values="score", aggfunc="mean")
    if reference not in means.index:
        return pd.DataFrame()
    gains = means.reindex(section.rows) - means.T[reference]
    return gains.drop(index=reference)[[name for name in section.datasets if name in gains.columns]]


def _figure(section: SectionRuns, gains: pd.DataFrame) -> Figure:
    values: NDArray[Any] = gains.to_numpy(dtype=float)
    rows, columns = values.shape
    labels = [shortened(row_label(row), LETTERS) for row in gains.index]
    names = [shortened(name, LETTERS) for name in gains.columns]
    longest = max(map(len, labels))
    width = max(0.62 * columns + 0.075 * longest + 1.2, 4.4)
    letters = max(map(len, names)) * 0.068  # inches
    slant = letters > (width - 0.075 * longest - 1.2) / columns
    below_panel = max(letters * math.sin(math.radians(SLANT)) - ROOM, 0) if slant else 0
    figure = Figure(figsize=(width, 0.3 * rows + 2.1 + below_panel), layout="constrained")
    ax = figure.subplots()
    limit = max(float(np.nanmax(np.abs(values))), 0.1)
    picture = ax.imshow(np.ma.masked_invalid(values), cmap="RdBu", vmin=-limit, vmax=limit, aspect="auto")
    ax.patch.set(facecolor="white", hatch="////", edgecolor="0.8")
    for row in range(rows):
        for column in range(columns):
            value = values[row, column]
            if np.isfinite(value):
                tone = "white" if abs(value) > 0.62 * limit else "black"
                ax.text(column, row, f"{value:+.1f}", ha="center", va="center", color=tone, fontsize=7)
    ax.set_xticks(
        range(columns), names, rotation=SLANT if slant else 0, ha="right" if slant else "center", rotation_mode="anchor"
    )
    ax.set_yticks(range(rows), labels)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    figure.colorbar(picture, ax=ax, label="points", shrink=0.9, aspect=12, pad=0.02)
    figure_title(figure, f"{section.score_word} minus linear probing: {section.title}")
    missing = " Hatched: no number." if not np.isfinite(values).all() else ""
    points = f"Percentage points of {score_title(section.key.task)}, means over seeds."
    legend_below(figure, f"{points} Blue is better than linear probing, red worse.{missing}")
    return figure
