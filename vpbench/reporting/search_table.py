"""What searches have selected on each data set, whether it lies on the border of the grid, and how much the setting matters."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from vpbench.reporting.definition import leaderboard
from vpbench.reporting.figures import data_sets, rows_in_order
from vpbench.reporting.frame import Filters, arrange, is_missing
from vpbench.reporting.keys import ColumnKey, RowKey, SectionKey
from vpbench.reporting.settings import search_in
from vpbench.reporting.table import Cell, Column, Row, Section, Table
from vpbench.reporting.trials import place_of_best, trials_in, tried, whole_ones
from vpbench.store.store import Store

BORDER = "border"
_FOOTER = (
    f"Selected on validation images: the trial with the most right answers; ties go to the smaller learning rate. [{BORDER}]: the"
    " smallest or largest value of the grid was the best, and a better one may lie beyond.",
    "Below the best: points on validation images that a trial has less than the best one, mean over trials and data sets."
    " Not finished: trials that were pruned, or failed.",
)


@dataclass(frozen=True)
class _Search:
    """The trials of one method on one data set.

    Attributes:
        selected: by setting; empty where no trial was finished, or nobody knows what was searched.
        borders: those of them that lie on the border of a grid.
        below: points of every finished trial below the best one.
        lost: trials that were pruned or failed.
    """

    selected: dict[str, Any]
    borders: frozenset[str]
    below: tuple[float, ...]
    lost: int

    @property
    def cell(self) -> Cell:
        values = list(self.selected.items())
        if not values:
            return Cell()
        text = _text(values[0][1]) if len(values) == 1 else ", ".join(f"{_name(key)}={_text(value)}" for key, value in values)
        number = float(values[0][1]) if len(values) == 1 and _is_number(values[0][1]) else None
        return Cell(text, number, notes=(BORDER,) if self.borders else ())


def search_table(store: Store, filters: Filters) -> Table:
    """A section per group of comparable trials and search space.

    Raises:
        StoreError: when no trial is stored.
    """
    trials = arrange(trials_in(store, Filters()), filters)
    alike = [replace(key, epochs=None) for key in trials["section"]]  # a pruned trial had fewer epochs
    found: dict[tuple[SectionKey, str], dict[RowKey, dict[str, _Search]]] = {}
    groups: Any = trials.assign(alike=alike).groupby(["alike", "row", "dataset", "search"], sort=False, dropna=False)
    for (_, row, dataset, search), own in groups:
        whole = whole_ones(own)
        key = (whole if len(whole) else own)["section"].iloc[0]
        found.setdefault((key, str(search)), {}).setdefault(row, {})[str(dataset)] = _search(own, whole, search_in(search))
    order = data_sets(trials)
    sections = tuple(_section(key, _title(search), rows, order) for (key, search), rows in found.items())
    return Table("", "What searches have selected", sections, _FOOTER)


def _title(search: str) -> str:
    about = search_in(search)
    if not about:
        return "an unknown search"
    return f"{about['space']} ({about['sampler']}, {about['trials']} trials): {', '.join(map(_name, about['searched']))}"


def _search(trials: pd.DataFrame, whole: pd.DataFrame, about: dict[str, Any]) -> _Search:
    if whole.empty:
        return _Search({}, frozenset(), (), len(trials))
    values = tried(whole, about.get("searched", ()))
    scores = values.pop("score").to_numpy()
    best = place_of_best(whole)
    selected = {str(name): values[name].iloc[best] for name in values}
    borders = {name for name, value in selected.items() if about.get("sampler") == "grid" and _on_border(value, values[name])}
    return _Search(selected, frozenset(borders), tuple(scores.max() - scores), len(trials) - len(whole))


def _on_border(value: Any, tried: pd.Series[Any]) -> bool:
    """Whether a number is the smallest or largest of three or more: of two, both are."""
    return bool(all(map(_is_number, tried)) and tried.nunique() > 2 and value in (tried.min(), tried.max()))


def _section(key: SectionKey, title: str, rows: dict[RowKey, dict[str, _Search]], order: Sequence[str]) -> Section:
    names = [name for name in order if any(name in own for own in rows.values())]
    summary = {"border": "On the border", "below": "Below the best", "lost": "Not finished"}
    columns = (
        *(Column("", name, "words", ColumnKey("dataset", name)) for name in names),
        *(Column("", name, "test", ColumnKey("test", key)) for key, name in summary.items()),
    )
    groups = leaderboard()
    lines = tuple(Row(groups.group_of(row), row, tuple(_cells(rows[row], names))) for row in rows_in_order(rows))
    return Section(key, columns, lines, (), key.backbone, caption=title)


def _cells(own: dict[str, _Search], names: Sequence[str]) -> Iterator[Cell]:
    yield from (own[name].cell if name in own else Cell() for name in names)
    borders, below = sum(bool(each.borders) for each in own.values()), [gap for each in own.values() for gap in each.below]
    yield Cell(f"{borders} of {len(own)}", float(borders))
    yield Cell(f"{np.mean(below):.1f}", round(float(np.mean(below)), 9)) if below else Cell()
    lost = sum(each.lost for each in own.values())
    yield Cell(str(lost), float(lost))


def _name(setting: str) -> str:
    return setting.removeprefix("recipe.")


def _text(value: Any) -> str:
    return f"{value:g}" if _is_number(value) else "-" if is_missing(value) else str(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
