"""Learning curves: the loss of every epoch and, where they were measured, loss and accuracy on validation images."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from functools import partial

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from vpbench.core.errors import StoreError
from vpbench.reporting.figures import SectionRuns, by_dataset, in_table_order, sections, usable
from vpbench.reporting.frame import Filters
from vpbench.reporting.keys import RowKey
from vpbench.reporting.row_labels import row_label
from vpbench.reporting.scores import score_title
from vpbench.reporting.styles import (
    RowStyle,
    despine,
    figure_title,
    legend_below,
    logarithmic,
    row_styles,
    shortened,
    subplot_grid,
)
from vpbench.store.store import Store

PLACE = 50  # on a page
COLUMNS = ("phase", "epoch", "train_loss", "val_acc1")
PANELS = {  # by column; runs of earlier versions have no validation loss
    "train_loss": "training loss",
    "val_loss": "loss on validation images",
    "val_acc1": "{} on validation images (%)",
}
_MANY = 12  # rows, beyond which lines in one panel cannot be told apart
WIDTHS = {1: 4.6, 2: 6.9, 3: 9.2}  # inches, by the number of panels


def draw(store: Store, runs: pd.DataFrame, filters: Filters) -> Iterator[tuple[str, Figure]]:
    """One figure per group of comparable runs and data set, named ``curves_<backbone>_<dataset>``.

    Raises:
        StoreError: when no run has a curve, or a file is none.
    """
    style = row_styles(runs)
    none = f"no learning curves in {store.folder} for these runs: run them again with --save curve."
    return by_dataset(sections(runs, filters), partial(_of_dataset, store, style), none)


def _of_dataset(
    store: Store, style: dict[RowKey, RowStyle], section: SectionRuns, dataset: str, runs: pd.DataFrame
) -> Iterator[tuple[str, Figure]]:
    if curves := _curves(store, runs):
        yield f"curves_{section.stem}_{dataset}", _figure(section, dataset, curves, style, set(runs["row"]))


def read_curve(store: Store, run_id: str) -> pd.DataFrame:
    """A run's epochs, one per row, with ``at``: the epoch counted through all phases, from 1.

    Raises:
        StoreError: when the file is no learning curve.
    """
    path = store.artefact_path(run_id, "curve.csv")
    try:
        curve = pd.read_csv(io.BytesIO(store.read_artefact(run_id, "curve.csv")))
    except (OSError, ValueError) as error:  # pandas' own errors are ValueErrors
        raise StoreError(f"{path} cannot be read: {str(error).splitlines()[0]}. Run it again with --save curve.") from error
    if missing := [name for name in COLUMNS if name not in curve.columns]:
        raise StoreError(f"{path} is no learning curve, it has no column {missing[0]}. Run it again with --save curve.")
    measured = {name: pd.to_numeric(curve[name]) if name in curve.columns else math.nan for name in PANELS}
    return curve.assign(at=range(1, len(curve) + 1), **measured)


def _curves(store: Store, runs: pd.DataFrame) -> dict[RowKey, list[pd.DataFrame]]:
    """Curves by row, in the order of the tables, one per seed."""
    found: dict[RowKey, list[pd.DataFrame]] = {}
    for row, run_id in in_table_order(runs[usable(runs)])[["row", "run_id"]].itertuples(index=False, name=None):
        if store.artefact_path(run_id, "curve.csv").exists():
            found.setdefault(row, []).append(read_curve(store, run_id))
    return found


def _figure(
    section: SectionRuns, dataset: str, curves: dict[RowKey, list[pd.DataFrame]], style: dict[RowKey, RowStyle], rows: set[RowKey]
) -> Figure:
    every = pd.concat([curve for own in curves.values() for curve in own])
    shown = [name for name in PANELS if name == "train_loss" or every[name].notna().any()]
    if len(curves) > _MANY:
        return _many(section, dataset, curves, style, rows, shown[-1])
    figure = Figure(figsize=(WIDTHS[len(shown)], 3.8), layout="constrained")
    for ax, name in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown, strict=True):
        _panel(ax, curves, style, name)
        ax.set(ylabel=PANELS[name].format(score_title(section.key.task)))
        if name != "val_acc1" and every[name].min() > 0:
            logarithmic(ax.yaxis)
    validated = "val_acc1" in shown
    figure_title(figure, f"Learning curves, {dataset}: {section.title}")
    legend_below(
        figure, _caption(curves, validated, rows), [style[row].legend_handle(row_label(row), line=True) for row in curves]
    )
    return figure


def _many(
    section: SectionRuns,
    dataset: str,
    curves: dict[RowKey, list[pd.DataFrame]],
    style: dict[RowKey, RowStyle],
    rows: set[RowKey],
    column: str,
) -> Figure:
    """A small panel per row, with the means of all others in grey."""
    figure, axes = subplot_grid(len(curves))
    for ax, row in zip(axes, curves, strict=True):
        for other, own in curves.items():
            colour, above = (style[row].colour, 2) if other == row else ("0.88", 1)
            for part in _phases(own, column):
                ax.plot(part.index, part["mean"], color=colour, linewidth=1, zorder=above)
        ax.set_title(shortened(row_label(row), 18), fontsize=7)
    axes[0].xaxis.set_major_locator(MaxNLocator(3, integer=True))
    if column == "train_loss" and min(curve[column].min() for own in curves.values() for curve in own) > 0:
        logarithmic(axes[0].yaxis)
    figure.supylabel(PANELS[column].format(score_title(section.key.task)), fontsize=8)
    figure_title(figure, f"Learning curves, {dataset}: {section.title}")
    caption = _caption(curves, column == "val_acc1", rows, "Mean")
    legend_below(figure, f"A panel per method, over its epochs; grey: the other methods. {caption}")
    return figure


def _phases(own: list[pd.DataFrame], column: str) -> list[pd.DataFrame]:
    """``mean``, ``min`` and ``max`` over seeds by epoch; each phase of a training is a line of its own."""
    over_seeds = pd.concat(own).groupby("at")[column].agg(["mean", "min", "max"])
    phases = own[0].set_index("at")["phase"].reindex(over_seeds.index)
    return [part.dropna() for _, part in over_seeds.groupby((phases != phases.shift()).cumsum())]


def _panel(ax: Axes, curves: dict[RowKey, list[pd.DataFrame]], style: dict[RowKey, RowStyle], column: str) -> None:
    despine(ax)
    for row, own in curves.items():
        row_style = style[row]
        for part in _phases(own, column):
            step = max(1, len(part) // 8)
            ax.plot(
                part.index,
                part["mean"],
                ls=row_style.dashes,
                linewidth=1.2,
                markersize=4,
                markevery=step,
                **row_style.marker_kwargs,
            )
            if len(own) > 1:
                ax.fill_between(part.index, part["min"], part["max"], color=row_style.colour, alpha=0.15, linewidth=0)
    ax.set(xlabel="epoch, through all phases" if _has_phases(curves) else "epoch")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def _has_phases(curves: dict[RowKey, list[pd.DataFrame]]) -> bool:
    return any(curve["phase"].nunique() > 1 for own in curves.values() for curve in own)


def _caption(curves: dict[RowKey, list[pd.DataFrame]], validated: bool, rows: set[RowKey], drawn: str = "Mean and range") -> str:
    seeds = sorted({len(own) for own in curves.values()})
    parts = [f"{drawn} of {'/'.join(map(str, seeds))} seeds." if seeds[-1] > 1 else "One seed each."]
    if _has_phases(curves):
        counts = {row: max(curve["phase"].nunique() for curve in own) for row, own in curves.items()}
        several = {row_label(row): count for row, count in counts.items() if count > 1}
        parts += [f"{row} trains in {count} phases, with a gap between them." for row, count in several.items()]
    if not validated:
        parts.append("No validation curve: runs have one with --val-curve, and with --selection best_val.")
    if absent := sorted(map(row_label, rows - curves.keys())):
        parts.append(f"No curve stored: {', '.join(absent)}.")
    return " ".join(parts)
