"""Two methods side by side, data set by data set and over the data sets."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from vpbench.core.errors import StoreError, UsageError
from vpbench.core.names import unknown
from vpbench.models.registry import method_class
from vpbench.reporting.cells import p_is, p_text
from vpbench.reporting.frame import Filters, arrange, known_methods, of_section, scored_runs, sections_in
from vpbench.reporting.keys import ColumnKey, RowKey, SectionKey
from vpbench.reporting.notes import protocol, seen_in_training
from vpbench.reporting.row_labels import differences, row_label
from vpbench.reporting.scores import ACCURACY, score_title
from vpbench.reporting.statistics import (
    DRAWS,
    LEAST_IMAGES,
    Hits,
    Paired,
    Regions,
    TooFewError,
    compare_hits,
    compare_regions,
    holm,
    wilcoxon_p,
    wins,
)
from vpbench.reporting.table import Cell, Column, Row, Section, Table
from vpbench.store.arrays import read_arrays
from vpbench.store.store import Store

_HOW = (
    f"Difference: first minus second, in points of {ACCURACY}, over the same seeds.",
    f"95 % interval: images drawn with replacement, each with all its seeds, {DRAWS:,} draws; with several seeds the spread"
    " between them that the images do not explain is added (Student's t, seeds - 1 degrees of freedom). Seeds are repeated"
    f" measures, not further images. Below {LEAST_IMAGES} images there is neither an interval nor a test of several seeds.",
    "p: two-sided; McNemar's exact test with one seed (which says nothing of other seeds), the bootstrap above with several."
    " p (Holm) is adjusted for the number of data sets.",
)
_REGIONS = (
    "mIoU is no mean over images: the pixels of the drawn images are added up, and p is of the bootstrap with one seed, too."
)


@dataclass(frozen=True)
class _Pair:
    """Both methods on one data set: scores by seed, and the test where predictions are stored."""

    group: str
    dataset: str
    first: pd.Series[float]
    second: pd.Series[float]
    images: int | None
    paired: Paired | None
    remark: str

    @property
    def difference(self) -> float:
        return float((self.first - self.second).mean())


def compare(store: Store, runs: pd.DataFrame, pairs: Sequence[tuple[str, str]], filters: Filters, mix: bool = False) -> Table:
    """Pairs of methods, data set by data set and over the data sets.

    Args:
        pairs: labels of rows as the tables print them, a method or a method with its options.
        mix: compare runs of the same data and seed even if their protocols differ.

    Raises:
        UsageError: for an unknown method, or two that share no data set and seed under one protocol.
    """
    # Filtering by method would hide what is asked for.
    runs = scored_runs(arrange(runs, Filters(filters.dataset, filters.suite, filters.backbone, None, filters.seed)))
    labels = {row_label(key): key for key in set(runs["row"])}
    named = _by_title(labels.values()) | labels
    for name in (name for pair in pairs for name in pair):
        if name not in named:
            raise unknown("method", name, labels, "Only runs that ended well can be compared.", "")
    sections: list[Section] = []
    p_values: list[tuple[int, float]] = []
    compared: set[SectionKey] = set()
    for first, second in pairs:
        if first == second:
            raise UsageError(f"'{first}' cannot be compared with itself: name two methods.")
        keys = named[first], named[second]
        own = runs[runs["row"].isin(keys)]
        compared |= set(own["section"])
        for section, members in _comparable(own, *keys, mix):
            built, p = _pair_section(store, members, *keys, section)
            if p is not None:
                p_values.append((len(sections), p))
            sections.append(built)
    tasks = {key.task for key in compared}
    how = [line.replace(ACCURACY, " or ".join(sorted(map(score_title, tasks)))) for line in _HOW]
    how += [_REGIONS] if any(tasks) else []
    how += seen_in_training(runs[runs["row"].isin({named[name] for pair in pairs for name in pair})])
    return Table("", "Paired comparison", tuple(_with_holm(sections, p_values)), tuple(how), tuple(compared))


def _by_title(rows: Iterable[RowKey]) -> dict[str, RowKey]:
    """Methods without a preset as papers call them, ``VPT``."""
    known = [key for key in rows if not key.preset and key.method in known_methods()]
    return {row_label(key, names={key.name: method_class(key.method).title}): key for key in known}


def _comparable(runs: pd.DataFrame, first: RowKey, second: RowKey, mix: bool) -> list[tuple[SectionKey | None, pd.DataFrame]]:
    """The runs of two methods by section, only sections that have both; all of them as one when mixing."""
    if mix:
        return [(None, runs)]
    parts = [(key, of_section(runs, key)) for key in sections_in(runs)]
    both: list[tuple[SectionKey | None, pd.DataFrame]] = [(key, own) for key, own in parts if own["row"].nunique() == 2]
    if both:
        return both
    different = "; ".join(differences(key for key, _ in parts).values())
    raise UsageError(
        f"{row_label(first)} and {row_label(second)} have no runs under one protocol (they differ in {different}); "
        "--mix compares them anyway."
    )


def _pair_section(
    store: Store, runs: pd.DataFrame, first: RowKey, second: RowKey, key: SectionKey | None
) -> tuple[Section, float | None]:
    """The comparison of two methods, and Wilcoxon's p."""
    found: list[_Pair] = []
    notes = [protocol(runs["section"].iloc[0], runs)[0]] if len(set(runs["section"])) == 1 else []
    for (group, dataset), own in runs.assign(dataset_group=runs["dataset_group"].fillna("")).groupby(
        ["dataset_group", "dataset"]
    ):
        sides = [own[own["row"] == row].set_index("seed") for row in (first, second)]
        if (double := next((side for side in sides if side.index.has_duplicates), None)) is not None:
            raise UsageError(
                f"several runs of {row_label(double['row'].iloc[0])} on {dataset} with one seed: "
                "choose with --suite or --backbone."
            )
        seeds = sorted(set(sides[0].index) & set(sides[1].index))
        alone = sorted(set(sides[0].index) ^ set(sides[1].index))
        notes += (
            [f"{dataset}: seeds {', '.join(map(str, alone))} left out, as only one of the two has them."]
            if seeds and alone
            else []
        )
        if not seeds:
            notes.append(f"{dataset}: left out, as the two share no seed.")
            continue
        found.append(_pair(store, str(group), str(dataset), sides[0].loc[seeds], sides[1].loc[seeds]))
    if not found:
        raise UsageError(
            f"{row_label(first)} and {row_label(second)} share no data set and seed: run both with the same --seeds."
        )
    adjusted = iter(holm([pair.paired.p for pair in found if pair.paired]))
    rows = [_pair_row(pair, float(next(adjusted)) if pair.paired else None) for pair in found]
    notes += [f"{pair.dataset}: not tested, {pair.remark}." for pair in found if pair.remark]
    return _pair_table(found, rows, notes, first, second, key)


def _pair_table(
    found: list[_Pair], rows: list[Row], notes: list[str], first: RowKey, second: RowKey, key: SectionKey | None
) -> tuple[Section, float | None]:
    gaps = [pair.difference for pair in found]
    won, tied, lost = wins(gaps)
    notes.append(
        f"{row_label(first)} wins {won}, ties {tied}, loses {lost} of {len(found)} data sets (a tie: equal to one decimal)."
    )
    p = None
    try:
        p = wilcoxon_p(gaps)
        notes.append(f"Over {len(found)} data sets (Wilcoxon's signed-rank test of the differences, two-sided): {p_is(p)}.")
    except TooFewError as error:
        notes.append(f"Over data sets: not tested. {error}.")
    names = ("Difference", "95 % interval", "p", "p (Holm)", "Seeds", "Images")
    columns = (
        *(Column("", "", "test", row) for row in (first, second)),
        *(Column("", name, "test", ColumnKey("test", name)) for name in names),
    )
    caption = f"{row_label(first)} against {row_label(second)}"
    caption += "" if key else ": mixed as asked for (--mix): protocols may differ"
    return Section(key, columns, tuple(rows), tuple(notes), head="Data set", caption=caption), p


def _with_holm(sections: list[Section], p_values: list[tuple[int, float]]) -> list[Section]:
    """With a line on Holm's adjustment where several comparisons over data sets were made."""
    if len(p_values) < 2:
        return sections
    for (index, _), p in zip(p_values, holm([p for _, p in p_values]), strict=True):
        line = f"Adjusted by Holm for {len(p_values)} such comparisons: {p_is(float(p))}."
        sections[index] = replace(sections[index], notes=(*sections[index].notes, line))
    return sections


def _pair(store: Store, group: str, dataset: str, first: pd.DataFrame, second: pd.DataFrame) -> _Pair:
    """The two methods on one data set, frames with one run per seed, in the same order of seeds."""
    scores = first["score"].astype(float), second["score"].astype(float)
    loaded = [[_predictions(store, run_id) for run_id in side["run_id"]] for side in (first, second)]
    missing = sum(each is None for side in loaded for each in side)
    if missing:
        return _Pair(group, dataset, *scores, None, None, f"as {missing} runs have no readable predictions (--save predictions)")
    sides = [[each for each in side if each is not None] for side in loaded]
    labels = sides[0][0][0]
    if any(not np.array_equal(labels, own) for side in sides for own, _ in side):
        return _Pair(group, dataset, *scores, None, None, "as the runs were tested on other images")
    stacked: list[Any] = [np.stack([found for _, found in side]) for side in sides]
    one, other = stacked
    try:
        paired = compare_hits(one, other) if one.ndim == 2 else compare_regions(one, other)
        return _Pair(group, dataset, *scores, len(labels), paired, "")
    except TooFewError as error:
        return _Pair(group, dataset, *scores, len(labels), None, f"as {error}")


def _predictions(store: Store, run_id: str) -> tuple[Any, Hits | Regions] | None:
    """Labels (images,) and whether each first guess is right; None without a readable file.

    Of a segmentation the labelled pixels of every class, (images, classes), and what :func:`compare_regions` takes of a seed.
    """
    try:
        arrays = read_arrays(store, run_id, "predictions", (), ("labels", "ranked", "intersection", "labelled", "predicted"))
    except StoreError:  # the table says how many are missing
        return None
    if arrays and arrays.keys() >= {"intersection", "labelled", "predicted"}:
        shared, labelled, predicted = (arrays[name] for name in ("intersection", "labelled", "predicted"))
        return labelled, np.stack([shared, labelled + predicted - shared], axis=1).astype(float)
    if arrays and arrays.keys() >= {"labels", "ranked"}:
        return arrays["labels"], arrays["ranked"][:, 0] == arrays["labels"]
    return None


def _pair_row(pair: _Pair, adjusted: float | None) -> Row:
    test = pair.paired
    return Row(
        pair.group,
        pair.dataset,
        (
            _score(pair.first),
            _score(pair.second),
            Cell(f"{pair.difference:+.1f}", round(pair.difference, 9)),
            Cell(f"{test.low:+.1f} to {test.high:+.1f}") if test and not np.isnan(test.low) else Cell(),
            Cell(p_text(test.p), test.p) if test else Cell(),
            Cell(p_text(adjusted), adjusted) if adjusted is not None else Cell(),
            Cell(str(len(pair.first)), float(len(pair.first))),
            Cell(str(pair.images), float(pair.images)) if pair.images else Cell(),
        ),
    )


def _score(values: pd.Series[float]) -> Cell:
    mean = round(float(values.mean()), 9)
    std = round(float(values.std(ddof=1)), 9) if len(values) > 1 else None
    return Cell(f"{mean:.1f}" + (f" ± {std:.1f}" if std is not None else ""), mean, std, len(values))
