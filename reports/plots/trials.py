"""Trials of a search: the validation accuracy of every value that was tried, and which trial was selected.

A panel per setting of the search, a figure per method, data set and group of comparable trials. Pruned and failed trials have no
validation accuracy of a whole training; they are counted below.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

from vpbench.core.hashing import digest
from vpbench.reporting.frame import Filters
from vpbench.reporting.scores import score_title
from vpbench.reporting.settings import search_in
from vpbench.reporting.styles import despine, figure_title, legend_below, method_styles, name_ticks
from vpbench.reporting.trials import has_score, place_of_best, trials_in, tried, whole_ones
from vpbench.store.store import Store

PLACE = 65  # on a page
OF_TRIALS = True  # needs no run
_COLUMNS = 3
_FEW = 6  # values that have a tick each
_GROUP = ("method", "backbone", "suite", "dataset", "search", "weights", "image_size", "data_digest")


def draw(store: Store, runs: pd.DataFrame, filters: Filters) -> Iterator[tuple[str, Figure]]:
    """One figure per search that has a finished trial, named ``trials_<backbone>_<dataset>_<method>_<hash of the search>``.

    Args:
        runs: not used, as these are the tested ones, and trials are not tested.

    Raises:
        StoreError: when no trial of a search is stored.
    """
    trials = trials_in(store, filters)
    for (method, backbone, suite, dataset, search, *others), own in trials.groupby(list(_GROUP), dropna=False):
        if has_score(own).any():
            name = f"trials_{backbone}_{dataset}_{str(method).replace(':', '-')}_{digest([suite, search, *map(str, others)], 6)}"
            yield name, _figure(own, f"{method} on {dataset}: {backbone}, suite {suite}", search_in(search))


def _figure(trials: pd.DataFrame, title: str, search: dict[str, Any]) -> Figure:
    whole = whole_ones(trials)
    values = tried(whole, search.get("searched", []))
    names = [name for name in values.columns if name != "score"]
    columns = min(len(names), _COLUMNS) or 1
    lines = -(-len(names) // columns) or 1
    figure = Figure(figsize=(max(2.4 * columns, 4.2), 2.3 * lines + 1.1), layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False, sharey=True).ravel()
    method, score = str(trials["method"].iloc[0]).partition(":")[0], score_title(trials["task"].iloc[0])
    colour = method_styles([method])[method][0]
    for ax, name in zip(axes, names):
        _panel(ax, name, values, place_of_best(whole), colour)
    for ax in axes[len(names) :]:
        ax.set_visible(False)
    for place in range(0, len(names), columns):
        axes[place].set_ylabel(f"{score} (%), validation images")
    figure_title(figure, f"Trials of {title}")
    legend_below(figure, _caption(trials, whole, search), _keys(colour))
    return figure


def _keys(colour: str) -> list[Line2D]:
    plain: dict[str, Any] = {"ls": "", "marker": "o", "color": colour}
    return [
        Line2D([], [], label="trial", markersize=4, alpha=0.6, **plain),
        Line2D([], [], label="selected", markersize=8, markerfacecolor="none", ls="", marker="o", color="black"),
    ]


def _panel(ax: Axes, name: str, values: pd.DataFrame, best: int, colour: str) -> None:
    despine(ax)
    numeric = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values[name])
    words = sorted({_word(value) for value in values[name]})
    at = values[name].astype(float).tolist() if numeric else [words.index(_word(value)) for value in values[name]]
    ax.plot(at, values["score"], ls="", marker="o", markersize=4, color=colour, alpha=0.6)
    ax.plot(at[best], values["score"].iloc[best], ls="", marker="o", markersize=8, color="black", markerfacecolor="none")
    ax.set_xlabel(name)
    if not numeric:
        name_ticks(ax, words)
        return
    wide = min(at) > 0 and max(at) / min(at) > 8
    if wide:
        ax.set_xscale("log")
        ax.xaxis.set_minor_formatter(NullFormatter())
    if len(set(at)) <= _FEW:
        ax.xaxis.set_minor_locator(NullLocator())
        ax.set_xticks(sorted(set(at)))
    else:
        ax.xaxis.set_major_locator(LogLocator() if wide else MaxNLocator(4))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _word(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _caption(trials: pd.DataFrame, whole: pd.DataFrame, search: dict[str, Any]) -> str:
    parts = [f"Validation images; {len(whole)} trials of {search.get('space', 'an unknown search')}."]
    if left := len(trials) - len(whole):
        parts.append(f"Without a whole training: {left}, pruned or failed.")
    return " ".join(parts)
