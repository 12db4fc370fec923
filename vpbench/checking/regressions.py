"""Comparing rows with a baseline, cell by cell. A cell is one method on one data set; its rows differ in their seeds."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import stdtrit

from vpbench.checking.baseline import (
    Cell,
    by_cell,
    cells_of,
    finished,
    records,
    row_of_seed,
    specification,
    with_specification_of,
)  # fmt: skip
from vpbench.checking.findings import Accuracy, CellCheck, Comparison, Finding
from vpbench.checking.platforms import differences, nearness, platform_text, sensitive_to_rounding
from vpbench.checking.tolerance import Tolerances
from vpbench.reporting.definition import leaderboard
from vpbench.store.schema import COLUMNS

# What must not change at all, as it depends on no seed and no machine. Where the baseline's seeds do differ, as after
# pruning, a value is compared with that of the same seed on the same platform.
EXACT = (
    "method_version", "weights_sha256", "image_size", "data_digest", "classes", "n_train", "n_val", "n_test", "total",
    "epochs_run", "precision", "selection",
    *(name for name in COLUMNS if name.startswith(("params_", "flops_", "macs_"))), "bytes_saved",
)  # fmt: skip

# Parts of the specification that are compared as columns, and the seed.
COMPARED_ELSEWHERE = ("seed", "data.digest", "method.version", "precision", "selection")

COSTS = ("latency_ms_p50", "train_step_ms", "mem_train_peak", "mem_infer_peak")


def compare(baseline: pd.DataFrame, now: pd.DataFrame, tolerances: Tolerances, fail_on_cost: bool = False) -> Comparison:
    """Compare rows with a baseline.

    Args:
        baseline: rows of several seeds.
        now: rows to judge, of the same cells. Of a cell with other runs beside those of the baseline's specification, these
            are left out.
        tolerances: what is allowed.
        fail_on_cost: whether a cost outside of its tolerance is a regression, and not only reported.
    """
    grid = _Grid(baseline, now, tolerances, fail_on_cost)
    checks: list[CellCheck] = []
    for cell in cells_of(baseline):
        checks.extend(grid.check(cell))
    compared = grid.accuracies
    return Comparison(
        tuple(checks), tuple(compared), tuple(grid.notes()), tolerances.false_alarm if compared else 0.0, grid.cell_alarm
    )


def prediction_interval(values: Sequence[float], images: int, repeats: int, alarm: float) -> tuple[float, float]:
    """Where the mean accuracy of ``repeats`` further seeds lies with probability 1 - ``alarm`` or more.

    Student's t: mean +- t(n - 1) s sqrt(1 / n + 1 / repeats), for accuracies that are normal over the seeds. The standard
    deviation s is at least the binomial one of the test images, since a few seeds can agree by chance.

    Args:
        values: accuracies of the baseline's seeds, percent, two or more.
        images: test images.
    """
    count, mean = len(values), float(np.mean(values))
    share = (mean / 100 * images + 1) / (images + 2)  # keeps the deviation above 0 at 0 and 100 %
    floor = 100 * math.sqrt(share * (1 - share) / images)
    spread = max(float(np.std(values, ddof=1)), floor)
    reach = float(stdtrit(count - 1, 1 - alarm / 2)) * spread * math.sqrt(1 / count + 1 / repeats)
    return mean - reach, mean + reach


@dataclass
class _Grid:
    baseline: pd.DataFrame
    now: pd.DataFrame
    tolerances: Tolerances
    fail_on_cost: bool
    accuracies: list[Accuracy] = field(default_factory=list)
    _unmeasured: set[str] = field(default_factory=set)  # columns that now have a value, and had none in the baseline
    _rounding: set[str] = field(default_factory=set)  # methods whose losses may have changed by rounding alone

    def __post_init__(self) -> None:
        self._reference = leaderboard().reference  # linear probing: its cost is that of the frozen network and a classifier
        self._old = by_cell(self.baseline)
        self._new = {cell: with_specification_of(rows, self._old.get(cell)) for cell, rows in by_cell(self.now).items()}
        comparable = [cell for cell in self._old if cell in self._new and self._accuracy_reason(cell) == ""]
        # Bonferroni: holds however the cells depend on each other, and they share images and seeds.
        self.cell_alarm = self.tolerances.false_alarm / len(comparable) if comparable else 0.0

    def check(self, cell: Cell) -> Iterator[CellCheck]:
        _, dataset, _, method = cell
        old = self._old[cell]
        if cell not in self._new:
            yield CellCheck(method, dataset, "same", (Finding(method, dataset, "status", "ok", "no run", "ok"),))
            return
        new = self._new[cell]
        yield CellCheck(method, dataset, "same", tuple(self._same(old, new)))
        old, new = finished(old), finished(new)
        if not len(new) or not len(old):
            return
        found, skipped = self._losses(old, new)
        yield CellCheck(method, dataset, "losses", tuple(found), skipped)
        yield self._accuracy(cell)
        if method != self._reference:
            found, skipped = self._costs(cell)
            yield CellCheck(method, dataset, "cost", tuple(found), skipped)

    def notes(self) -> Iterator[str]:
        yield from differences(records(self.baseline), records(self.now), self.tolerances)
        yield from (f"The baseline is without {column}, so it is not compared." for column in sorted(self._unmeasured))
        for method in sorted(self._rounding):
            yield (
                f"{method}: another order of the same sums is enough to change its losses. After a change that only rounds "
                f"otherwise, update its rows: vpbench check --update --methods {method}."
            )
        if surplus := [cell for cell in self._new if cell not in self._old]:
            names = ", ".join(f"{cell[3]} on {cell[1]}" for cell in surplus)
            yield f"Not in the baseline, so not compared: {names}."

    def _same(self, old: pd.DataFrame, new: pd.DataFrame) -> Iterator[Finding]:
        """Status, specification, and every column of :data:`EXACT`."""
        first, method, dataset = old.iloc[0], old.iloc[0]["method"], old.iloc[0]["dataset"]
        for row in records(new):
            if row["status"] != first["status"]:
                reason = (str(row["error"] or "").strip().splitlines() or [""])[-1]
                status = f"{row['status']}: {reason}" if reason else row["status"]
                yield Finding(method, dataset, f"status (seed {row['seed']})", first["status"], status, first["status"])
        old, new = finished(old), finished(new)
        if not len(new) or not len(old):
            return
        before, after = (_flat(specification(rows.iloc[0])) for rows in (old, new))
        for name in sorted((before.keys() | after.keys()) - set(COMPARED_ELSEWHERE)):
            if before.get(name) != after.get(name):
                was, now = (_text(leaves[name]) if name in leaves else "absent" for leaves in (before, after))
                # An option that was added since is no regression by itself; what it changes shows in the numbers.
                yield Finding(method, dataset, name, was, now, "the same", fails=name in before)
        for column in EXACT:
            yield from self._exact(column, old, new)

    def _exact(self, column: str, old: pd.DataFrame, new: pd.DataFrame) -> Iterator[Finding]:
        known = list(dict.fromkeys(_plain(value) for value in old[column]))
        if known == [None]:
            if new[column].notna().any():
                self._unmeasured.add(column)
            return
        if len(known) == 1 and all(_plain(value) == known[0] for value in new[column]):
            return  # the usual case, without a dictionary per row
        for row in records(new):
            wanted, value = known, _plain(row[column])
            if len(known) > 1:
                known_row = row_of_seed(row["seed"], old)
                if known_row is None or nearness(row, known_row) != "same":
                    continue
                wanted = [_plain(known_row[column])]
            if value != wanted[0]:
                yield Finding(row["method"], row["dataset"], column, _text(wanted[0]), _text(value), "the same")
                return

    def _losses(self, old: pd.DataFrame, new: pd.DataFrame) -> tuple[list[Finding], str]:
        """The first losses of each seed against those of the same seed, and against those of every other one."""
        found, reason, compared = [], "", False
        for row in records(new):
            if (other := self._seed_with_the_same_losses(row, old, new)) is not None:
                found.append(
                    Finding(
                        row["method"], row["dataset"], f"first_losses (seed {row['seed']})", "other losses for every seed",
                        f"those of seed {other}", "different",
                    )
                )  # fmt: skip
                compared = True
                continue
            known_row = row_of_seed(row["seed"], old)
            if known_row is None:
                reason = f"seed {row['seed']} is not in the baseline"
                continue
            distance = nearness(row, known_row)
            if distance == "far":
                reason = f"baseline made on {platform_text(known_row)}: random numbers and kernels may differ there"
                continue
            if distance == "near" and sensitive_to_rounding(row):
                reason = f"baseline made on {platform_text(known_row)}: this method's numbers depend on it by more than rounding"
                continue
            compared = True
            allowed = self.tolerances.loss if distance == "same" else self.tolerances.loss_elsewhere
            if (
                difference := _first_difference(_floats(known_row["first_losses"]), _floats(row["first_losses"]), allowed)
            ) is not None:
                step, before, after = difference
                if sensitive_to_rounding(row):
                    self._rounding.add(row["method"])
                found.append(
                    Finding(
                        row["method"], row["dataset"], f"first_losses[{step}] (seed {row['seed']})", f"{before:.6g}",
                        f"{after:.6g}", f"± {100 * allowed:g} %",
                    )
                )  # fmt: skip
        return found, "" if compared else reason

    def _seed_with_the_same_losses(self, row: dict[str, Any], old: pd.DataFrame, new: pd.DataFrame) -> int | None:
        """Another seed with the first losses of this row: then the seed had no effect on the run.

        None where the baseline's own seeds do not differ either, as for a method that has nothing random.
        """
        if len({tuple(_floats(losses)) for losses in old["first_losses"]}) < len(old):
            return None
        mine = _floats(row["first_losses"])
        for rows in (new, old):
            for seed, losses in zip(rows["seed"], rows["first_losses"], strict=True):
                if seed != row["seed"] and _first_difference(_floats(losses), mine, self.tolerances.loss) is None:
                    return int(seed)
        return None

    def _accuracy_reason(self, cell: Cell) -> str:
        """Why a cell's accuracy cannot be compared; empty when it can."""
        if not len(finished(self._old[cell])) or not len(finished(self._new[cell])):
            return "no finished run"
        if len(finished(self._old[cell])) < 2:
            return "the baseline has one seed, and a spread needs two"
        return ""

    def _accuracy(self, cell: Cell) -> CellCheck:
        """The mean of now against the interval of the baseline's seeds; then each seed against itself."""
        _, dataset, _, method = cell
        old, new = finished(self._old[cell]), finished(self._new[cell])
        pairs = self._pairs_on_the_same_platform(old, new)
        if (reason := self._accuracy_reason(cell)) and not pairs:
            return CellCheck(method, dataset, "accuracy", skipped=reason)
        if not reason and (found := self._outside_of_seeds(old, new)):
            return CellCheck(method, dataset, "accuracy", (found,))
        return CellCheck(method, dataset, "accuracy", tuple(self._moved(pairs)))

    def _outside_of_seeds(self, old: pd.DataFrame, new: pd.DataFrame) -> Finding | None:
        method, dataset = str(old.iloc[0]["method"]), str(old.iloc[0]["dataset"])
        values, now = [float(value) for value in old["acc1"]], float(new["acc1"].mean())
        low, high = prediction_interval(values, int(old.iloc[0]["total"]), len(new), self.cell_alarm)
        mean, std = float(np.mean(values)), float(np.std(values, ddof=1))
        self.accuracies.append(Accuracy(method, dataset, mean, std, len(values), now, max(low, 0.0), min(high, 100.0)))
        if low - 1e-9 <= now <= high + 1e-9:
            return None
        allowed = f"{max(low, 0):.1f} to {min(high, 100):.1f}"
        return Finding(method, dataset, "acc1", f"{mean:.1f} ± {std:.1f} (n = {len(values)})", f"{now:.1f}", allowed)

    def _pairs_on_the_same_platform(self, old: pd.DataFrame, new: pd.DataFrame) -> list[tuple[dict[str, Any], dict[str, Any]]]:
        """Rows and those of the same seed, where a repetition gives the same numbers: on the same processor."""
        pairs = [(row, row_of_seed(row["seed"], old)) for row in records(new) if row["device"] == "cpu"]
        return [(row, known_row) for row, known_row in pairs if known_row is not None and nearness(row, known_row) == "same"]

    def _moved(self, pairs: list[tuple[dict[str, Any], dict[str, Any]]]) -> Iterator[Finding]:
        limit = self.tolerances.accuracy
        for row, known_row in pairs:
            before, after = float(known_row["acc1"]), float(row["acc1"])
            if not abs(after - before) <= limit + 1e-9:
                column = f"acc1 (seed {row['seed']})"
                yield Finding(row["method"], row["dataset"], column, f"{before:.2f}", f"{after:.2f}", f"± {limit:g} points")

    def _costs(self, cell: Cell) -> tuple[list[Finding], str]:
        """Costs against those of linear probing on the same data set in the same run, medians over the seeds."""
        reference = (*cell[:3], self._reference)
        if reference not in self._old or reference not in self._new:
            return [], f"{self._reference} is not in both runs, and costs are compared with its own"
        found, compared = [], False
        old, plain_old, new, plain_new = (finished(rows[place]) for rows in (self._old, self._new) for place in (cell, reference))
        for column in COSTS:
            before, after = _ratio(old, plain_old, column), _ratio(new, plain_new, column)
            if before is None or after is None:
                continue
            compared = True
            limit = before * (1 + self.tolerances.cost)
            if after > limit:
                found.append(
                    Finding(
                        cell[3], cell[1], f"{column} / {self._reference}", f"{before:.2f}", f"{after:.2f}", f"up to {limit:.2f}",
                        self.fail_on_cost,
                    )
                )  # fmt: skip
        return found, "" if compared else "no cost was measured"


def _first_difference(before: list[float], after: list[float], allowed: float) -> tuple[int, float, float] | None:
    """The first step (from 0) whose losses differ by more than the share ``allowed``, and both losses; None without one.

    Step 0 is the model as it starts; a later one, how it is trained.
    """
    for step in range(max(len(before), len(after))):
        old, new = (losses[step] if step < len(losses) else math.nan for losses in (before, after))
        if not abs(old - new) <= allowed * max(abs(old), 1e-6):  # also when one is no number
            return step, old, new
    return None


def _floats(losses: Any) -> list[float]:
    return [] if losses is None else [float(loss) for loss in losses]


def _ratio(rows: pd.DataFrame, reference: pd.DataFrame, column: str) -> float | None:
    over, under = rows[column].dropna(), reference[column].dropna()
    if not len(over) or not len(under) or not under.median():
        return None
    return float(over.median()) / float(under.median())


def _flat(tree: dict[str, Any], path: str = "") -> dict[str, Any]:
    """``{"recipe": {"lr": 1}}`` to ``{"recipe.lr": 1}``."""
    leaves: dict[str, Any] = {}
    for name, value in tree.items():
        leaves.update(_flat(value, f"{path}{name}.") if isinstance(value, dict) else {path + name: value})
    return leaves


def _plain(value: Any) -> Any:
    """A value that equals itself: None for a missing one."""
    return None if value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value)) else value


def _text(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, int | np.integer) and not isinstance(value, bool):
        return f"{value:,}"
    return str(value) if isinstance(value, str) else json.dumps(value)
