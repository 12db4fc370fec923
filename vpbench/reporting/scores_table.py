"""Scores beside accuracy, from what runs left: calibration, scores that weigh classes, and accuracies on corrupted images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pandas as pd

from vpbench.analysis import robustness
from vpbench.analysis.calibration import read_probabilities
from vpbench.analysis.class_scores import read_predictions
from vpbench.core.errors import StoreError
from vpbench.reporting.cells import score_cell
from vpbench.reporting.definition import leaderboard
from vpbench.reporting.figures import SectionRuns, rows_in_order, sections_by_class, usable
from vpbench.reporting.frame import Filters
from vpbench.reporting.keys import ColumnKey, RowKey
from vpbench.reporting.notes import seen_in_training
from vpbench.reporting.table import Column, Row, Section, Table
from vpbench.store.store import Store

# Score, heading, decimals.
COLUMNS = (
    ("acc1", "top-1 (%)", 1), ("mean_per_class", "mean per class (%)", 1), ("macro_f1", "macro F1 (%)", 1),
    ("many", "many (%)", 1), ("medium", "medium (%)", 1), ("few", "few (%)", 1),
    ("ece", "ECE (%)", 2), ("nll", "NLL", 3), ("brier", "Brier", 3),
    ("temperature", "T", 2), ("ece_scaled", "ECE at T (%)", 2), ("nll_scaled", "NLL at T", 3), ("brier_scaled", "Brier at T", 3),
    *((f"corrupted_{group}", f"{group} (%)", 1) for group in ("noise", "blur", "weather", "digital")),
    ("corrupted_all", "all corruptions (%)", 1),
)  # fmt: skip
NO_TEMPERATURE = "No temperature: the runs on {} have no validation images to fit it on."
Scores = Mapping[RowKey, Mapping[str, Mapping[int, float]]]  # by row, score and seed


def scores_table(store: Store, runs: pd.DataFrame, filters: Filters) -> Table:
    """A section per group of comparable runs and data set; columns that no run has are left out.

    Raises:
        StoreError: when no run left predictions or probabilities, or a file is damaged.
    """
    by_class = list(sections_by_class(runs, filters))
    found = [part for section in by_class for part in _sections(store, section)]
    if not found:
        raise StoreError(
            f"no predictions, probabilities or corruptions in {store.folder} for these runs: repeat the command that made "
            "them with --save predictions,probabilities, or with --corruptions all, which trains nothing that is stored."
        )
    footer = (
        "Mean and standard deviation over seeds. Many, medium, few: classes with more than 100, 20 to 100, fewer than 20 training"
        " images.",
        "ECE in 15 bins of equal width; NLL with the natural logarithm; Brier summed over classes. T: temperature that minimises"
        " NLL on validation images, empty without any.",
        "Corruptions: mean top-1 accuracy over five severities and then over the corruptions of a group.",
        *seen_in_training(pd.concat([section.runs for section in by_class])),
    )
    return Table("", "Scores beside accuracy", tuple(found), footer)


def _sections(store: Store, section: SectionRuns) -> Iterator[Section]:
    order = leaderboard()
    for dataset in section.datasets:
        own = section.runs[(section.runs["dataset"] == dataset) & usable(section.runs)]
        scores = _scores(store, own)
        known = [column for column in COLUMNS if any(column[0] in row for row in scores.values())]
        if not any(name not in ("acc1", "mean_per_class") for name, _, _ in known):
            continue
        rows = tuple(
            Row(
                order.group_of(row), row, tuple(score_cell(scores[row].get(name, {}), digits, False) for name, _, digits in known)
            )
            for row in rows_in_order(scores)
        )
        columns = tuple(Column("", heading, "score", ColumnKey("other", name)) for name, heading, _ in known)
        names = {name for name, _, _ in known}
        notes = (NO_TEMPERATURE.format(dataset),) if "ece" in names and "temperature" not in names else ()
        yield Section(section.key, columns, rows, notes, str(section.key.backbone), head="Method", caption=dataset)


def _scores(store: Store, runs: pd.DataFrame) -> Scores:
    found: dict[RowKey, dict[str, dict[int, float]]] = {}
    for run in runs.to_dict("records"):
        predictions, probabilities = (read(store, run["run_id"]) for read in (read_predictions, read_probabilities))
        values = {name: float(run[name]) for name in ("acc1", "mean_per_class") if pd.notna(run.get(name))}
        values |= predictions.scores() if predictions else {}
        values |= probabilities.scores() if probabilities else {}
        if store.artefact_path(run["run_id"], robustness.FILE.name).exists():
            accuracies = robustness.mean_accuracy(robustness.FILE.read(store, run["run_id"]))
            values |= {f"corrupted_{group}": value for group, value in accuracies.items()}
        for name, value in values.items():
            found.setdefault(run["row"], {}).setdefault(name, {})[int(run["seed"])] = value
    return found
