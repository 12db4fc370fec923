"""Accuracy against what a method costs, in four panels, with the Pareto front of each (as InsVP's Figure 5).

The accuracy is the mean over the data sets, and a method without a number on one of them is left out: means over
different data sets cannot be compared.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from vpbench.core.errors import StoreError
from vpbench.reporting.figures import SectionRuns, sections
from vpbench.reporting.frame import Filters
from vpbench.reporting.keys import RowKey
from vpbench.reporting.row_labels import row_label
from vpbench.reporting.styles import (
    RowStyle,
    despine,
    deviation_bars,
    figure_title,
    in_shares,
    legend_below,
    logarithmic,
    nested_sizes,
    row_styles,
)
from vpbench.store.store import Store

PLACE = 10  # on a page
_MANY = 12  # methods
OVERVIEW = True  # readable with thousands of runs
OF_COSTS = True  # or those of vpbench measure


@dataclass(frozen=True)
class Cost:
    """A panel: a column of the store, divided by ``scale`` for display. ``timed``: it depends on the machine."""

    column: str
    title: str
    scale: float
    timed: bool = False


COSTS = (
    Cost("params_trainable", "trained parameters (thousands)", 1e3),
    Cost("flops_forward", "FLOPs of one image (10⁹)", 1e9),
    Cost("latency_ms_p50", "latency of one image, median (ms)", 1, timed=True),
    Cost("mem_train_peak", "peak memory in training (MiB)", 2**20, timed=True),
)
STEP = Cost("train_ratio", "training step / inference of the plain backbone", 1, timed=True)  # of vpbench measure


@dataclass(frozen=True)
class Point:
    """One method: mean accuracy over the data sets, its standard deviation over seeds, and costs by column."""

    row: RowKey
    accuracy: float
    deviation: float | None
    costs: dict[str, float]


def draw(store: Store, runs: pd.DataFrame, filters: Filters) -> Iterator[tuple[str, Figure]]:
    """One figure per group of comparable runs, named ``pareto_<backbone>``.

    Raises:
        StoreError: when no group has a method with a number on all its data sets.
    """
    style, shown = row_styles(runs), panels_of(runs)
    lacking: list[str] = []
    drawn = False
    for section in sections(runs, filters):
        if points := points_of(section, shown):
            drawn = True
            yield f"pareto_{section.stem}", _figure(section, points, style, shown)
        else:
            lacking.append(section.title)
    if not drawn:
        raise StoreError(
            f"no method in {store.folder} has an accuracy on all data sets of its group ({lacking[0]}): "
            "choose one with --dataset NAME, or fill the grid with vpbench run."
        )


def panels_of(runs: pd.DataFrame) -> tuple[Cost, ...]:
    """The costs that are shown: with those of ``vpbench measure``, which times steps best, the step in place of the latency."""
    return tuple(STEP if STEP.column in runs and cost.column == "latency_ms_p50" else cost for cost in COSTS)


def points_of(section: SectionRuns, shown: Sequence[Cost] = COSTS) -> list[Point]:
    """The methods that have a number on every data set of the section, in the order of the tables."""
    scored = section.scored
    points = []
    for row in section.rows:
        own = scored[scored["row"] == row]
        if set(own["dataset"]) != set(section.datasets):
            continue
        per_seed = own.pivot(index="seed", columns="dataset", values="score").dropna().mean(axis=1)
        deviation = float(per_seed.std()) if len(per_seed) > 1 else None
        costs = {cost.column: own.groupby("dataset")[cost.column].mean().mean() / cost.scale for cost in shown}
        known = {name: float(value) for name, value in costs.items() if pd.notna(value)}
        points.append(Point(row, float(own.groupby("dataset")["score"].mean().mean()), deviation, known))
    return points


def pareto_front(costs: Sequence[float], scores: Sequence[float]) -> list[int]:
    """Places of the points that no other one beats: none costs as little or less and scores as much or more.

    Of two equal points both are in the front. Sorted by cost.
    """
    front = []
    for place, (cost, score) in enumerate(zip(costs, scores, strict=True)):
        beaten = any(
            other_cost <= cost and other_score >= score and (other_cost, other_score) != (cost, score)
            for other_cost, other_score in zip(costs, scores, strict=True)
        )
        if not beaten:
            front.append(place)
    return sorted(front, key=lambda place: (costs[place], scores[place]))


def _figure(section: SectionRuns, points: Sequence[Point], style: dict[RowKey, RowStyle], shown: Sequence[Cost]) -> Figure:
    figure = Figure(figsize=(6.9, 5.6), layout="constrained")
    axes = figure.subplots(2, 2, sharey=True)
    alike = len(_machines(section.scored, shown)) < 2
    panels = [_panel(ax, cost, points, style, alike or not cost.timed) for ax, cost in zip(axes.ravel(), shown)]
    for line in axes:
        line[0].set_ylabel(section.score)
    has_line, has_nested = (any(of_panel) for of_panel in zip(*panels, strict=True))
    figure_title(figure, f"{section.score_word} against cost, {_count(section.datasets)}: {section.title}")
    legend_below(
        figure,
        _caption(section, points, shown, has_line, has_nested),
        [style[point.row].legend_handle(row_label(point.row)) for point in points],
    )
    return figure


def _panel(
    ax: Axes, cost: Cost, points: Sequence[Point], style: dict[RowKey, RowStyle], comparable: bool
) -> tuple[bool, bool]:  # fmt: skip
    """Returns whether there is a line, which a front of one point has not, and whether points lie in one place.

    Args:
        comparable: whether the costs may be compared, and have a front.
    """
    despine(ax)
    ax.set(xlabel=cost.title)
    shown = [point for point in points if cost.column in point.costs]
    if not shown:
        ax.text(0.5, 0.5, "not measured", transform=ax.transAxes, ha="center", color="0.4")
        ax.set_xticks([])
        return False, False
    x, y = [point.costs[cost.column] for point in shown], [point.accuracy for point in shown]
    # Costs as tables print them: less is noise.
    front = pareto_front([float(f"{cost:.3g}") for cost in x], y) if comparable else []
    ax.plot([x[i] for i in front], [y[i] for i in front], drawstyle="steps-post", color="0.55", linewidth=1, zorder=1)
    wide = min(x) > 0 and max(x) / min(x) > 8
    places = list(zip(in_shares([math.log(value) for value in x] if wide else x), in_shares(y), strict=True))
    sizes = nested_sizes(places)
    for point, cost_value, size in zip(shown, x, sizes, strict=True):
        bars = None if point.deviation is None else deviation_bars([point.accuracy], [point.deviation])
        dot = style[point.row].marker_kwargs
        ax.errorbar(cost_value, point.accuracy, yerr=bars, ls="", markersize=size, elinewidth=0.8, capsize=2, **dot)
    if len(shown) > _MANY:  # too many colours to find in a legend
        for i in _apart(front, places):
            ax.annotate(row_label(shown[i].row), (x[i], y[i]), xytext=(0, 5), textcoords="offset points", fontsize=6, ha="center")
    if wide:
        logarithmic(ax.xaxis)
    else:
        ax.xaxis.set_major_locator(MaxNLocator(5))
    ax.margins(0.12)
    return len(front) > 1, len(set(sizes)) > 1


def _apart(front: Sequence[int], places: Sequence[tuple[float, float]]) -> list[int]:
    """Points of the front whose names do not touch, from the best one down."""
    named: list[int] = []
    for i in reversed(front):
        if all(abs(places[i][0] - places[j][0]) > 0.2 or abs(places[i][1] - places[j][1]) > 0.1 for j in named):
            named.append(i)
    return named


def _count(datasets: Sequence[str]) -> str:
    return (
        datasets[0]
        if len(datasets) == 1
        else f"mean of {', '.join(datasets)}"
        if len(datasets) < 5
        else f"mean of {len(datasets)} data sets"
    )


def _caption(section: SectionRuns, points: Sequence[Point], shown: Sequence[Cost], line: bool, nested: bool) -> str:
    parts = ["Grey line: Pareto front; no other method costs as little and scores as much."] if line else []
    if nested:
        parts.append("Methods in one place are drawn inside one another.")
    if any(point.deviation is not None for point in points):
        parts.append("Bars: standard deviation over seeds.")
    if line and len(points) > _MANY:
        parts.append("Methods of the front are named where there is room.")
    parts += _of_machines(_machines(section.scored, shown), shown)
    if missing := [row_label(point.row) for point in points if STEP in shown and STEP.column not in point.costs]:
        parts.append(f"Not measured: {', '.join(missing)}.")
    if left_out := sorted(map(row_label, set(section.runs["row"]) - {point.row for point in points})):
        parts.append(f"Without a number on every data set: {', '.join(left_out)}.")
    return " ".join(parts)


def _machines(scored: pd.DataFrame, shown: Sequence[Cost]) -> pd.DataFrame:
    """``device_name`` and ``threads`` of the machines that the costs that depend on them come from, None where unknown."""
    about = scored[["device_name", "threads"]].astype(object)
    timed = scored[[cost.column for cost in shown if cost.timed]].notna().any(axis=1)
    return about.where(about.notna(), None)[timed].drop_duplicates()


def _of_machines(kinds: pd.DataFrame, shown: Sequence[Cost]) -> list[str]:
    """What there is to say of them."""
    if STEP in shown:
        places = [f"{name}, threads: {threads:g}" for name, threads in kinds.dropna().itertuples(index=False)]
        return [f"Step and memory: measured on {' and '.join(places)}."] if places else []
    several = f"Latency and memory come from {len(kinds)} kinds of machine, are not comparable and have no front."
    return [several] if len(kinds) > 1 else []
