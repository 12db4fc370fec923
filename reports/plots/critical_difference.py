"""Critical-difference diagram: mean ranks over data sets, and which differences are not significant by Nemenyi's test.

After Demšar, "Statistical Comparisons of Classifiers over Multiple Data Sets", JMLR 7, 2006. Seeds are repeated measures of
the same data set and no further data sets, so that ranks come from means over seeds.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.stats import studentized_range

from vpbench.core.errors import StoreError
from vpbench.reporting.figures import SectionRuns, sections
from vpbench.reporting.frame import Filters
from vpbench.reporting.keys import RowKey
from vpbench.reporting.row_labels import row_label
from vpbench.reporting.statistics import ALPHA, LEAST_FRIEDMAN, LEAST_METHODS, Friedman, friedman
from vpbench.reporting.styles import RowStyle, figure_title, legend_below, nested_sizes, row_styles
from vpbench.store.store import Store

PLACE = 30  # on a page
OVERVIEW = True  # readable with thousands of runs
MANY = 15  # methods: beyond, not every rank has its number


def draw(store: Store, runs: pd.DataFrame, filters: Filters) -> Iterator[tuple[str, Figure]]:
    """One figure per group of comparable runs, named ``critical_difference_<backbone>``.

    Raises:
        StoreError: when no group has enough methods on enough data sets.
    """
    style = row_styles(runs)
    problems: list[tuple[int, str]] = []
    drawn = False
    for section in sections(runs, filters):
        scores = complete_scores(section)
        problem = shortage(*scores.shape)
        if problem:
            problems.append((len(section.scored), f"{section.title}: {problem}"))
            continue
        drawn = True
        yield f"critical_difference_{section.stem}", _figure(section, scores, style)
    if not drawn:
        raise StoreError(
            f"no critical-difference diagram of {store.folder}: {max(problems)[1]}. "
            f"Add methods or data sets: vpbench run --methods linear,vpt,insvp --suite vtab1k --results {store.folder}"
        )


def complete_scores(section: SectionRuns) -> pd.DataFrame:
    """Mean accuracy over seeds, a row per data set and a column per method that has a number on every data set."""
    means = section.scored.pivot_table(index="dataset", columns="row", values="score", aggfunc="mean")
    means = means.reindex(index=section.datasets)
    return means[[row for row in section.rows if means[row].notna().all()]]


def shortage(datasets: int, methods: int) -> str:
    """What is missing for a diagram, empty when nothing is."""
    if methods < LEAST_METHODS:
        return f"Friedman's test needs {LEAST_METHODS} methods with a number on every data set, and here are {methods}"
    if datasets < LEAST_FRIEDMAN:
        return f"Friedman's test needs {LEAST_FRIEDMAN} data sets that every method has, and here are {datasets}"
    if datasets < (needed := fewest_data_sets(methods)):
        return f"with fewer than {needed} data sets no difference of ranks can be significant, and here are {datasets}"
    return ""


def critical_value(methods: int, alpha: float = ALPHA) -> float:
    """q_alpha of Nemenyi's test: the studentized range with infinite degrees of freedom, divided by the root of 2."""
    return float(studentized_range.ppf(1 - alpha, methods, math.inf) / math.sqrt(2))


def critical_difference(methods: int, datasets: int, alpha: float = ALPHA) -> float:
    """Difference of two mean ranks from which on it is significant."""
    return critical_value(methods, alpha) * math.sqrt(methods * (methods + 1) / (6 * datasets))


def fewest_data_sets(methods: int) -> int:
    """With fewer, the critical difference exceeds the largest possible difference of mean ranks."""
    return math.floor(critical_value(methods) ** 2 * methods * (methods + 1) / (6 * (methods - 1) ** 2)) + 1


def cliques(ranks: Sequence[float], difference: float) -> list[tuple[int, int]]:
    """Longest stretches (first, last) of sorted ranks that lie within the critical difference, single ones left out."""
    found: list[tuple[int, int]] = []
    for first, rank in enumerate(ranks):
        last = max(place for place, other in enumerate(ranks) if other - rank < difference)
        if last > first and (not found or last > found[-1][1]):
            found.append((first, last))
    return found


def _figure(section: SectionRuns, scores: pd.DataFrame, style: Mapping[RowKey, RowStyle]) -> Figure:
    datasets, methods = scores.shape
    tested = friedman(scores)
    ranks, difference = tested.ranks.sort_values(kind="stable"), tested.critical
    groups = cliques(ranks.tolist(), difference)
    half = -(-methods // 2)
    height = 0.9 + 0.13 * len(groups) + 0.24 * half
    figure = Figure(figsize=(6.4, height + 1.25), layout="constrained")
    _diagram(figure.subplots(), ranks, difference, groups, style)
    figure_title(figure, f"Mean ranks over {datasets} data sets: {section.title}")
    legend_below(figure, _caption(section, scores, tested))
    return figure


def _diagram(
    ax: Axes, ranks: pd.Series[float], difference: float, groups: Sequence[tuple[int, int]], style: Mapping[RowKey, RowStyle]
) -> None:
    """The scale of ranks on top; labels left and right below it; thick lines join what is not significantly different."""
    methods, half = len(ranks), -(-len(ranks) // 2)
    reach = max(methods - 1, 1)
    left, right = 1 - 0.08 * reach, methods + 0.08 * reach
    ax.axis("off")
    ax.plot([1, methods], [0, 0], color="black", linewidth=1)
    for tick in range(1, methods + 1):
        is_named = methods <= MANY or tick == 1 or tick % 5 == 0
        ax.plot([tick, tick], [0, 0.25 if is_named else 0.12], color="black", linewidth=1)
        if is_named:
            ax.text(tick, 0.4, str(tick), ha="center", va="bottom")
    ax.plot([1, 1 + difference], [1.75, 1.75], color="black", linewidth=1.2, marker="|", markersize=6)
    ax.text(1 + difference / 2, 1.95, f"critical difference {difference:.2f}", ha="center", va="bottom", fontsize=7)
    start = -0.55 - 0.55 * len(groups)
    rows: list[Any] = list(ranks.index)
    places = [(rank / reach, 0.0) for rank in ranks]
    sizes = nested_sizes(places, step=3.0) if methods <= MANY else [3.5] * methods  # of many, the lines tell them apart
    for place, (row, rank) in enumerate(zip(rows, ranks)):
        on_left = place < half
        y = start - (place if on_left else methods - 1 - place)
        edge = left if on_left else right
        row_style, label = style[row], row_label(row)
        ax.plot([rank, rank, edge], [0, y, y], color="0.45", linewidth=0.8)
        ax.plot(rank, 0, ls="", markersize=sizes[place], clip_on=False, zorder=3 + place / methods, **row_style.marker_kwargs)
        text = f"{label}  {rank:.2f}" if on_left else f"{rank:.2f}  {label}"
        ax.text(edge - (0.02 if on_left else -0.02) * reach, y, text, ha="right" if on_left else "left", va="center")
    for place, (first, last) in enumerate(groups):
        y = -0.55 - 0.55 * place
        ax.plot(_bar(ranks.tolist(), first, last, 0.02 * reach), [y, y], color="black", linewidth=3, solid_capstyle="butt")
    room = 0.35 * reach
    ax.set_xlim(left - room, max(right, 1 + difference) + room)
    ax.set_ylim(start - half + 0.3, 2.9)


def _bar(ranks: Sequence[float], first: int, last: int, overhang: float) -> list[float]:
    """Both ends of the bar of a group, which reach over its ranks, and never to one outside."""
    before = ranks[first] - ranks[first - 1] if first else math.inf
    after = ranks[last + 1] - ranks[last] if last + 1 < len(ranks) else math.inf
    return [ranks[first] - min(overhang, before / 3), ranks[last] + min(overhang, after / 3)]


def _caption(section: SectionRuns, scores: pd.DataFrame, tested: Friedman) -> str:
    parts = [
        f"Rank 1 is best. Bars join methods whose ranks differ by less than {tested.critical:.2f} (Nemenyi, alpha = {ALPHA}). "
        f"Friedman: chi-squared {tested.statistic:.1f}, p = {tested.p:.2g}."
    ]
    if tested.p >= ALPHA:
        parts.append("Friedman's test finds no difference at all, so that none of the ranks should be read as one.")
    if len(scores) < 10:
        parts.append(f"With {len(scores)} data sets both tests see large differences only.")
    if left_out := sorted(map(row_label, set(section.runs["row"]) - set(scores))):
        parts.append(f"Without a number on every data set: {', '.join(left_out)}.")
    return " ".join(parts)
