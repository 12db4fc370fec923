"""How much a setting matters: what every value of a search loses against the best one, in points on validation images.

A panel per method, a line per data set. Where other settings were searched too, a value stands with the best of these.
"""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from vpbench.core.errors import StoreError
from vpbench.core.hashing import digest
from vpbench.reporting.frame import Filters
from vpbench.reporting.settings import search_in
from vpbench.reporting.styles import dataset_palette, figure_title, legend_below, logarithmic, shortened, subplot_grid
from vpbench.reporting.trials import trials_in, tried, whole_ones
from vpbench.store.store import Store

PLACE = 64  # on a page
OVERVIEW = True  # readable with thousands of runs
OF_TRIALS = True  # needs no run
_GROUP = ("backbone", "suite", "weights", "image_size")


def draw(store: Store, runs: pd.DataFrame, filters: Filters) -> Iterator[tuple[str, Figure]]:
    """One figure per group of comparable searches and setting with numbers, named ``sensitivity_<backbone>_<suite>_<setting>``.

    Args:
        runs: not used, as these are the tested ones, and trials are not tested.

    Raises:
        StoreError: when no trial of a search is stored, or none is of a number.
    """
    trials = trials_in(store, filters)
    trials = trials.assign(space=[str(search_in(search).get("space", "")) for search in trials["search"]])
    drawn = False
    for (backbone, suite, *others, space), own in trials.groupby([*_GROUP, "space"], dropna=False):
        lost = _lost(own)
        for setting in dict.fromkeys(lost["setting"]):
            drawn = True
            name = f"sensitivity_{backbone}_{suite}_{setting}_{digest([space, *map(str, others)], 6)}"
            yield name, _figure(lost[lost["setting"] == setting], setting, f"{backbone}, suite {suite}, search {space}")
    if not drawn:
        raise StoreError(f"no search in {store.folder} has tried several numbers of one setting: see vpbench tune --help.")


def _lost(trials: pd.DataFrame) -> pd.DataFrame:
    """``lost`` points by ``method``, ``dataset``, ``setting`` and its ``value``: the best score less that with the value."""
    parts = []
    for (method, dataset), own in trials.groupby(["method", "dataset"], sort=False):
        whole = whole_ones(own)
        values = tried(whole, search_in(own["search"].iloc[0]).get("searched", ()))
        for setting in values.columns.drop("score", errors="ignore"):
            if not pd.api.types.is_numeric_dtype(values[setting]) or values[setting].nunique() < 2:
                continue
            best = values.groupby(setting)["score"].max()
            lost = pd.DataFrame({"value": best.index, "lost": best.max() - best.to_numpy()})
            parts.append(lost.assign(method=str(method), dataset=str(dataset), setting=setting))
    return pd.concat(parts) if parts else pd.DataFrame({"setting": []})


def _figure(lost: pd.DataFrame, setting: str, title: str) -> Figure:
    methods = sorted(lost["method"].unique(), key=lambda method: lost.loc[lost["method"] == method, "lost"].mean())
    figure, axes = subplot_grid(len(methods))
    names = list(dict.fromkeys(lost["dataset"]))
    palette = dataset_palette(lost.assign(dataset_group=""))
    for ax, method in zip(axes, methods, strict=True):
        own = lost[lost["method"] == method]
        for name, line in own.groupby("dataset", sort=False):
            ax.plot(line["value"], -line["lost"], marker="o", markersize=2, linewidth=1, color=palette[str(name)])
        ax.set_title(f"{shortened(method, 18)} {own['lost'].mean():.1f}", fontsize=7)
    if lost["value"].min() > 0:
        logarithmic(axes[0].xaxis)
    figure.supylabel("points less than with the best value, validation images", fontsize=8)
    figure_title(figure, f"Sensitivity to {setting}: {title}")
    keys = [Line2D([], [], color=palette[name], marker="o", markersize=3, label=name) for name in names]
    legend_below(
        figure, f"{setting} of every trial. Behind a name: the mean of all points below the best; least sensitive first.", keys
    )
    return figure
