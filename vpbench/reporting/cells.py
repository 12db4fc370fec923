"""The numbers of a table: scores with their spread, means over data sets, costs, ranks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from math import fsum, sqrt
from statistics import fmean

import pandas as pd

from vpbench.reporting.definition import CostColumn
from vpbench.reporting.keys import ColumnKey, RowKey
from vpbench.reporting.table import Cell, Row

_RANGE = "\u2013"

# Scores by row, data set and seed.
Scores = Mapping[RowKey, Mapping[str, Mapping[int, float]]]


@dataclass(frozen=True)
class Mean:
    """A mean column: over the data sets ``members`` (name: group), or over the means of their groups."""

    title: str
    key: ColumnKey
    members: dict[str, str]
    over_groups: bool


def scores_of(scored: pd.DataFrame, metric: str) -> Scores:
    """By row, data set and seed."""
    found: dict[RowKey, dict[str, dict[int, float]]] = {}
    for row, dataset, seed, value in zip(scored["row"], scored["dataset"], scored["seed"], scored[metric], strict=True):
        found.setdefault(row, {}).setdefault(dataset, {})[seed] = float(value)
    return found


def costs_of(scored: pd.DataFrame, column: str) -> dict[RowKey, dict[str, list[float]]]:
    """Those of all runs, by row and data set."""
    found: dict[RowKey, dict[str, list[float]]] = {}
    known = scored[scored[column].notna()]
    for row, dataset, value in zip(known["row"], known["dataset"], known[column], strict=True):
        found.setdefault(row, {}).setdefault(dataset, []).append(float(value))
    return found


def score_cell(by_seed: Mapping[int, float], decimals: int, show_n: bool) -> Cell:
    """Mean and deviation over seeds; with ``show_n`` their number, too."""
    if not by_seed:
        return Cell()
    mean, n = _number(fmean(by_seed.values())), len(by_seed)
    std = _number(_deviation(list(by_seed.values()))) if n > 1 else None
    return Cell(f"{_spread(mean, std, decimals)}{f' ({n})' if show_n else ''}", mean, std, n)


def _spread(mean: float, std: float | None, decimals: int) -> str:
    return f"{mean:.{decimals}f}" + (f" ± {std:.{decimals}f}" if std is not None else "")


def _deviation(values: Sequence[float]) -> float:
    """Sample standard deviation. That of the standard library computes with fractions, too slowly for thousands of cells."""
    mean = fmean(values)
    return sqrt(fsum((value - mean) ** 2 for value in values) / (len(values) - 1))


def _number(value: float) -> float:
    return round(float(value), 9)


def mean_cell(scores: Mapping[str, Mapping[int, float]], mean: Mean, decimals: int, show_n: bool) -> Cell:
    """The mean over data sets or over group means; empty as soon as one data set is.

    Where all data sets have the same seeds, the deviation is that of the seeds' means.
    """
    if any(not scores.get(name) for name in mean.members):
        return Cell()
    number = _number(_average({name: sum(scores[name].values()) / len(scores[name]) for name in mean.members}, mean))
    seeds = [set(scores[name]) for name in mean.members]
    if any(own != seeds[0] for own in seeds):
        return Cell(f"{number:.{decimals}f}", number)
    std = None
    if len(seeds[0]) > 1:
        by_seed = [_average({name: scores[name][seed] for name in mean.members}, mean) for seed in sorted(seeds[0])]
        std = _number(_deviation(by_seed))
    return Cell(f"{_spread(number, std, decimals)}{f' ({len(seeds[0])})' if show_n else ''}", number, std, len(seeds[0]))


def _average(values: Mapping[str, float], mean: Mean) -> float:
    if not mean.over_groups:
        return sum(values.values()) / len(values)
    groups = sorted(set(mean.members.values()))
    own = [[values[name] for name, of in mean.members.items() if of == group] for group in groups]
    return sum(sum(each) / len(each) for each in own) / len(own)


def cost_cell(by_data_set: Mapping[str, Sequence[float]], cost: CostColumn) -> Cell:
    """Mean over the data sets; as text a range where their numbers differ by more than rounding."""
    if not by_data_set:
        return Cell()
    means = [fmean(values) / cost.scale for values in by_data_set.values()]
    low, high = (_significant(value, cost.digits) for value in (min(means), max(means)))
    mean = _number(fmean(means))
    text = _significant(mean, cost.digits) if low == high or cost.show == "mean" else f"{low}{_RANGE}{high}"
    return Cell(text, mean, None, sum(map(len, by_data_set.values())))


def _significant(value: float, digits: int) -> str:
    """Plain decimal notation with so many significant digits: 0.00123, 17.6, 1230."""
    return f"{Decimal(f'{value:.{digits - 1}e}'):f}"


def with_ranks(rows: Sequence[Row], count: int, decimals: int) -> tuple[Row, ...]:
    """The rows with ranks in their first ``count`` cells. Values that print alike share a rank; a single value gets none."""
    ranks = [_ranks([row.cells[index].mean for row in rows], decimals) for index in range(count)]
    return tuple(
        replace(row, cells=(*(replace(cell, rank=ranks[j][i]) for j, cell in enumerate(row.cells[:count])), *row.cells[count:]))
        for i, row in enumerate(rows)
    )


def _ranks(means: Sequence[float | None], decimals: int) -> list[int | None]:
    printed = [None if mean is None else float(f"{mean:.{decimals}f}") for mean in means]
    values = [value for value in printed if value is not None]
    if len(values) < 2:
        return [None] * len(means)
    best_two = sorted(set(values), reverse=True)[:2]
    return [best_two.index(value) + 1 if value in best_two else None for value in printed]


def p_text(value: float) -> str:
    """A p-value as text: three decimals, or that it is smaller."""
    return f"{value:.3f}" if value >= 0.001 else "< 0.001"


def p_is(value: float) -> str:
    """The same in a sentence: ``p = 0.012`` or ``p < 0.001``."""
    return f"p {'' if value < 0.001 else '= '}{p_text(value)}"
