"""Reliability diagrams: accuracy of the test images by the probability of the predicted class, one panel per method.

A calibrated model is right as often as it says: its bars end on the diagonal.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vpbench.analysis.calibration import BINS, Probabilities, read_probabilities, reliability, with_temperature
from vpbench.reporting.figures import SectionRuns, by_dataset, in_table_order, sections_by_class, usable
from vpbench.reporting.frame import Filters
from vpbench.reporting.keys import RowKey
from vpbench.reporting.row_labels import row_label
from vpbench.reporting.styles import figure_title, legend_below, shortened
from vpbench.store.store import Store

PLACE = 47  # on a page
_COLUMNS = 4
_BAR, _GAP, _SCALED = "#4c78a8", "#d1495b", "#2f2f2f"


def draw(store: Store, runs: pd.DataFrame, filters: Filters) -> Iterator[tuple[str, Figure]]:
    """One figure per group of comparable runs and data set, named ``reliability_<backbone>_<dataset>``.

    Raises:
        StoreError: when no run left its probabilities, or a file holds none.
    """
    none = f"no probabilities in {store.folder} for these runs: run them again with --save probabilities."
    return by_dataset(sections_by_class(runs, filters), partial(_of_dataset, store), none)


def _of_dataset(store: Store, section: SectionRuns, dataset: str, runs: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    own = runs[usable(runs)]
    if found := _by_row(store, own):
        yield f"reliability_{section.stem}_{dataset}", _figure(section, dataset, found, set(own["row"]))


def _by_row(store: Store, runs: pd.DataFrame) -> dict[RowKey, list[Probabilities]]:
    """In the order of the tables, one per seed."""
    found: dict[RowKey, list[Probabilities]] = {}
    for row, run_id in in_table_order(runs)[["row", "run_id"]].itertuples(index=False, name=None):
        if (probabilities := read_probabilities(store, run_id)) is not None:
            found.setdefault(row, []).append(probabilities)
    return found


def _figure(
    section: SectionRuns, dataset: str, found: Mapping[RowKey, list[Probabilities]], rows: set[RowKey]
) -> Figure:  # fmt: skip
    columns = min(_COLUMNS, len(found))
    lines = -(-len(found) // columns)
    figure = Figure(figsize=(max(4.8, 2.3 * columns), 2.5 * lines + 0.9), layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True).ravel()
    for ax, (row, seeds) in zip(axes, found.items()):
        _panel(ax, seeds)
        ax.set_title(shortened(row_label(row), 34))
    for ax in axes[len(found) :]:
        ax.set_visible(False)
    for place in range(0, len(found), columns):
        axes[place].set_ylabel("accuracy")
    for ax in axes[max(0, len(found) - columns) : len(found)]:
        ax.set_xlabel("probability of the predicted class")
        ax.tick_params(labelbottom=True)
    figure_title(figure, f"Calibration, {dataset}: {section.title}")
    counts = sorted({len(seeds) for seeds in found.values()})
    parts = [
        f"{BINS} bins of equal width; width of a bar by the share of the images in its bin, all seeds together"
        f" ({'/'.join(map(str, counts))} each). Red: the distance to the mean probability, darker where it lies on the bar."
    ]
    if any(len(seeds[0].val_labels) for seeds in found.values()):
        parts.append("Dots: at the temperature T that was fitted on validation images.")
    if absent := sorted(map(row_label, rows - found.keys())):
        parts.append(f"Without probabilities: {', '.join(absent)}.")
    legend_below(figure, " ".join(parts), [])
    return figure


def _panel(ax: Axes, seeds: list[Probabilities]) -> None:
    test = np.concatenate([each.test for each in seeds])
    labels = np.concatenate([each.test_labels for each in seeds])
    bins = reliability(test, labels)
    middles, shares = (np.arange(BINS) + 0.5) / BINS, bins.count / bins.count.max()
    full = bins.count > 0
    widths = (0.25 + 0.7 * np.sqrt(shares[full])) / BINS
    ax.plot([0, 1], [0, 1], color="0.6", linewidth=0.8, zorder=1)
    ax.bar(middles[full], bins.accuracy[full], widths, color=_BAR, zorder=2)
    low = np.minimum(bins.accuracy, bins.confidence)[full]
    gaps = np.abs(bins.accuracy - bins.confidence)[full]
    ax.bar(middles[full], gaps, widths, bottom=low, color=_GAP, alpha=0.45, zorder=3)
    text = f"ECE {100 * bins.error():.1f} %"
    temperatures = [each.temperature() for each in seeds]
    if all(each is not None for each in temperatures):
        scaled = np.concatenate([with_temperature(each.test, float(t or 1)) for each, t in zip(seeds, temperatures)])
        after = reliability(scaled, labels)
        some = after.count > 0
        ax.plot(after.confidence[some], after.accuracy[some], ls="", marker="o", markersize=2.5, color=_SCALED, zorder=4)
        text += f"\nT {np.mean([t for t in temperatures if t]):.2f}: {100 * after.error():.1f} %"
    ax.text(0.04, 0.96, text, transform=ax.transAxes, va="top", ha="left")
    ax.set(xlim=(0, 1), ylim=(0, 1))
    ax.set_aspect("equal")
