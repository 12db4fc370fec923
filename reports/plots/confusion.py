"""Confusion matrices: which classes of the test images are taken for which, one panel per method.

A row of a matrix is a class and adds up to 100 %, over all seeds. Of too many classes to read, those that are confused most are
shown.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from vpbench.analysis.class_scores import read_predictions
from vpbench.core.errors import StoreError
from vpbench.reporting.figures import SectionRuns, by_dataset, in_table_order, sections_by_class, usable
from vpbench.reporting.frame import Filters
from vpbench.reporting.keys import RowKey
from vpbench.reporting.row_labels import row_label
from vpbench.reporting.styles import figure_title, legend_below, shortened
from vpbench.store.store import Store

PLACE = 45  # on a page
MOST_CLASSES = 20  # of a panel
NUMBERED = 10  # up to so many classes the cells hold numbers
_COLUMNS = 3


def draw(store: Store, runs: pd.DataFrame, filters: Filters) -> Iterator[tuple[str, Figure]]:
    """One figure per group of comparable runs and data set, named ``confusion_<backbone>_<dataset>``.

    Raises:
        StoreError: when no run left its predictions, or a file holds none.
    """
    none = f"no predictions in {store.folder} for these runs: run them again with --save predictions."
    return by_dataset(sections_by_class(runs, filters), partial(_of_dataset, store), none)


def _of_dataset(store: Store, section: SectionRuns, dataset: str, runs: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    own = runs[usable(runs)]
    counts, names = counts_of(store, own)
    if counts:
        yield f"confusion_{section.stem}_{dataset}", _figure(section, dataset, counts, names, set(own["row"]))


def counts_of(store: Store, runs: pd.DataFrame) -> tuple[dict[RowKey, NDArray[np.int64]], tuple[str, ...]]:
    """By row, in the order of the tables, images by class and first guess, (classes, classes), over all seeds; and the names of
    the classes, numbers where they are not stored."""
    found: dict[RowKey, NDArray[np.int64]] = {}
    names: tuple[str, ...] = ()
    for run in in_table_order(runs).to_dict("records"):
        predictions = read_predictions(store, run["run_id"])
        if predictions is None:
            continue
        classes, names = int(run["classes"]), predictions.class_names or names
        if max(predictions.labels.max(), predictions.predicted.max()) >= classes:
            raise StoreError(f"the predictions of run {run['run_id']} are of more than its {classes} classes: run it again.")
        pairs = np.bincount(predictions.labels * classes + predictions.predicted, minlength=classes**2).reshape(classes, classes)
        found[run["row"]] = found.get(run["row"], 0) + pairs
    count = max((len(pairs) for pairs in found.values()), default=0)
    return found, names if len(names) == count else tuple(map(str, range(count)))


def most_confused(counts: Mapping[RowKey, NDArray[np.int64]], most: int = MOST_CLASSES) -> list[int]:
    """The classes with the largest share of wrong guesses over all rows, at most so many, in their order."""
    total = np.sum(list(counts.values()), axis=0)
    shares = 1 - total.diagonal() / np.maximum(total.sum(axis=1), 1)
    shares[total.sum(axis=1) == 0] = -1
    return sorted(np.argsort(-shares, kind="stable")[:most].tolist())


def _figure(
    section: SectionRuns, dataset: str, counts: Mapping[RowKey, NDArray[np.int64]], names: tuple[str, ...], rows: set[RowKey]
) -> Figure:
    shown = most_confused(counts)
    columns = min(len(counts), _COLUMNS)
    lines = -(-len(counts) // columns)
    longest = max(len(shortened(names[k], 16)) for k in shown)
    side = max(1.7, 0.16 * len(shown))
    names_below = 0.06 * longest * (2 if lines > 1 and len(counts) % columns else 1)  # also above places without a panel
    figure = Figure(
        figsize=(max(columns * (side + 0.1) + 0.06 * longest + 0.7, 3.6), lines * (side + 0.55) + names_below + 1.0),
        layout="constrained",
    )
    axes = figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True).ravel()
    for ax, (row, own) in zip(axes, counts.items()):
        _panel(ax, own, shown, names)
        ax.set_title(f"{shortened(row_label(row), 28)}\n{100 * own.trace() / own.sum():.1f} %")
    for ax in axes[len(counts) :]:
        ax.set_visible(False)
    for place in range(0, len(counts), columns):
        axes[place].set_ylabel("class")
    for ax in axes[max(len(counts) - columns, 0) : len(counts)]:
        ax.set_xlabel("first guess")
        ax.tick_params(labelbottom=True)
    figure_title(figure, f"Confusion, {dataset}: {section.title}")
    legend_below(figure, _caption(len(shown), len(names), sorted(map(row_label, rows - counts.keys()))))
    return figure


def _panel(ax: Axes, counts: NDArray[np.int64], shown: list[int], names: tuple[str, ...]) -> None:
    shares = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    part = shares[np.ix_(shown, shown)]
    ax.imshow(part, cmap="Blues", vmin=0, vmax=100, interpolation="nearest")
    labels = [shortened(names[k], 16) for k in shown]
    ax.set_xticks(range(len(shown)), labels, rotation=90)
    ax.set_yticks(range(len(shown)), labels)
    ax.tick_params(length=0, labelsize=6)
    if len(shown) > NUMBERED:
        return
    for (line, column), share in np.ndenumerate(part):
        if share >= 0.5:
            colour = "white" if share > 50 else "black"
            ax.text(column, line, f"{share:.0f}", ha="center", va="center", fontsize=5, color=colour)


def _caption(shown: int, classes: int, absent: list[str]) -> str:
    parts = ["Percent of a class's test images, all seeds together; above a panel the share of right guesses."]
    if shown < classes:
        parts.append(f"The {shown} of {classes} classes that are confused most; guesses of others are left out.")
    if absent:
        parts.append(f"No predictions stored: {', '.join(absent)}.")
    return " ".join(parts)
