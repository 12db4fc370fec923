"""Which rows can be results of a run: they have the columns that all commands need, and numbers that agree with each other."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from vpbench.core.file_names import is_file_name
from vpbench.store.schema import STATUSES

NEEDED = ("run_id", "status", "method", "dataset")
_PERCENT = ("score", "acc1", "acc5", "mean_per_class", "val_score", "val_acc1")
_COUNTS = ("correct", "correct5", "total", "val_correct")
_AGREE = {"acc1": ("correct", "total"), "acc5": ("correct5", "total"), "val_acc1": ("val_correct", "n_val")}
_ROUNDED = 0.006  # percent: two decimals

JUDGED = (*NEEDED, *_PERCENT, *_COUNTS, "n_val", "started_at")
"""Columns that are read whatever is asked for, so that every command leaves out the same rows."""

_YEARS = tuple(np.datetime64(year).astype("datetime64[ms]").astype(int) for year in ("1970", "2262"))  # that pandas can show

Numbers = NDArray[np.float64]


def implausible(rows: pa.Table) -> dict[int, str]:
    """The places of rows that cannot be results, each with the reason; columns that a table lacks are not looked at.

    Args:
        rows: of this version of the schema.
    """
    found: dict[int, str] = {}
    for bad, reason in _checks(rows):
        for place in np.flatnonzero(bad).tolist():
            found.setdefault(place, reason(place) if callable(reason) else reason)
    return found


def _checks(rows: pa.Table) -> Iterator[tuple[NDArray[np.bool_], Any]]:
    """Which rows fail, and why: a text, or a function of the row's place."""
    there = set(rows.column_names)
    for name in NEEDED:
        if name in there:
            empty = pc.or_kleene(pc.is_null(rows[name]), pc.equal(rows[name], ""))
            yield pc.fill_null(empty, True).to_numpy(), f"a row has no {name}"
    yield _unsafe(rows["run_id"]), lambda place: f"its run_id {_short(rows['run_id'], place)} is no name"
    if "status" in there:
        known = pc.is_in(rows["status"], pa.array(STATUSES))
        yield ~known.to_numpy(), lambda place: f"its status {_short(rows['status'], place)} is none of {', '.join(STATUSES)}"
    if "started_at" in there:
        began = pc.cast(rows["started_at"], pa.int64()).fill_null(0).to_numpy()
        yield (began < _YEARS[0]) | (began >= _YEARS[1]), "its started_at is no time of a run"
    numbers = {name: _numbers(rows[name]) for name in (*_PERCENT, *_COUNTS, "n_val") if name in there}
    for name in _PERCENT:
        if name in there:
            value = numbers[name]
            yield (value < 0) | (value > 100), _says(name, value, "is not between 0 and 100")
    for name in _COUNTS:
        if name in there:
            yield numbers[name] < 0, _says(name, numbers[name], "is negative")
    for name, (part, whole) in _AGREE.items():
        if {name, part, whole} <= there:
            right, of = numbers[part], numbers[whole]
            yield right > of, _says(part, right, f"is more than {whole}")
            with np.errstate(divide="ignore", invalid="ignore"):
                apart = np.abs(numbers[name] - 100 * right / of) > _ROUNDED
            yield apart & (of > 0), _says(name, numbers[name], f"is not {part} by {whole}")


def _numbers(column: pa.ChunkedArray) -> Numbers:
    """With NaN for nothing, which no check finds fault with."""
    return pc.cast(column, pa.float64(), safe=False).fill_null(np.nan).to_numpy()


def _unsafe(names: pa.ChunkedArray) -> NDArray[np.bool_]:
    """Which run ids cannot be file names of their own."""
    usual = pc.fill_null(pc.match_substring_regex(names, r"\A[A-Za-z0-9][A-Za-z0-9_-]{0,99}\z"), False).to_numpy()
    bad: NDArray[np.bool_] = ~usual
    for place in np.flatnonzero(bad).tolist():
        bad[place] = not is_file_name(names[place].as_py() or "")
    return bad


def _says(name: str, values: Numbers, fault: str) -> Any:
    return lambda place: f"its {name} {values[place]:g} {fault}"


def _short(names: pa.ChunkedArray, place: int) -> str:
    text = repr(names[place].as_py())
    return text if len(text) <= 60 else f"{text[:57]}..."
