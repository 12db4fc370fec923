"""What the gate calls a regression, on synthetic rows."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from check_rows import as_frame, grid, make_row
from sweeps import case, some

from vpbench.checking.findings import Comparison, Finding
from vpbench.checking.regressions import EXACT, compare, prediction_interval
from vpbench.checking.tolerance import Tolerances
from vpbench.core.errors import UsageError

BASELINE = as_frame(grid(range(8)))
LOSSES: list[float] = make_row(seed=3)["first_losses"]


def against(*rows: dict[str, Any], fail_on_cost: bool = False, **tolerances: float) -> Comparison:
    """The rows against the baseline's cells of the same methods (linear is there for costs)."""
    methods = {row["method"] for row in rows}
    return compare(
        BASELINE[BASELINE["method"].isin(methods)].reset_index(drop=True),
        as_frame(list(rows)),
        Tolerances(**tolerances),
        fail_on_cost,
    )


def only(comparison: Comparison) -> Finding:
    (finding,) = comparison.findings
    return finding


def skipped(comparison: Comparison, check: str) -> str:
    (found,) = {one.skipped for one in comparison.checks if one.check == check}
    return found


def test_the_same_rows_are_no_regression() -> None:
    found = compare(BASELINE, as_frame(grid([3])), Tolerances())
    assert (found.findings, found.cells, found.notes) == ([], 3, ())
    assert [accuracy.seeds for accuracy in found.accuracies] == [8, 8, 8]
    assert not [check for check in found.checks if check.skipped]


@pytest.mark.parametrize("column", [case(column, always=list(EXACT)[::8]) for column in EXACT])
def test_what_must_be_equal(column: str) -> None:
    old = make_row(seed=3)[column]
    changed = old + 1 if isinstance(old, int) else old + "x"
    finding = only(against(make_row(seed=3, **{column: changed})))
    assert (finding.method, finding.dataset, finding.column, finding.allowed) == ("vpt", "digits", column, "the same")
    assert finding.baseline.replace(",", "") == str(old)
    assert finding.now.replace(",", "") == str(changed)
    assert finding.fails


def test_a_missing_number_is_a_change() -> None:
    assert only(against(make_row(seed=3, macs_fvcore=None))).now == "none"


@pytest.mark.parametrize(
    ("path", "value", "before", "after"),
    [
        ("method.config.prompt_length", 11, "10", "11"),
        ("recipe.lr", 0.004, "0.002", "0.004"),
        ("backbone.mean", [0.229], "[0.485]", "[0.229]"),
        ("method.config.new", True, "absent", "true"),
    ],
)
def test_changed_specifications_are_named_by_field(path: str, value: Any, before: str, after: str) -> None:
    finding = only(against(make_row(seed=3, spec={path: value})))
    assert (finding.column, finding.baseline, finding.now) == (path, before, after)
    assert finding.fails == (before != "absent")  # an option that came since is not a regression


def test_an_option_that_came_since_and_is_empty_is_not_worth_a_line() -> None:
    assert against(make_row(seed=3, spec={"search": None})).findings == []


def test_columns_that_the_baseline_lacks_are_said_and_not_compared() -> None:
    old = BASELINE.assign(macs_fvcore=float("nan"))
    found = compare(old, as_frame(grid([3], macs_fvcore=7)), Tolerances())
    assert found.findings == []
    assert found.notes == ("The baseline is without macs_fvcore, so it is not compared.",)


def test_runs_that_fail() -> None:
    finding = only(against(make_row(seed=3, status="failed", error="Traceback\nValueError: shapes")))
    assert (finding.column, finding.now) == ("status (seed 3)", "failed: ValueError: shapes")


def test_cells_without_a_run() -> None:
    found = compare(BASELINE, as_frame(grid([3], ("linear", "vpt"))), Tolerances())
    assert (only(found).method, only(found).now) == ("insvp", "no run")


def test_new_cells_are_said_and_not_compared() -> None:
    found = compare(BASELINE, as_frame(grid([3], ("linear", "vpt", "insvp", "later"))), Tolerances())
    assert found.findings == []
    assert found.notes == ("Not in the baseline, so not compared: later on digits.",)


def test_other_runs_in_the_same_folder_are_left_out() -> None:
    longer = make_row(seed=3, spec={"recipe.lr": 0.1}, params_trainable=1)
    assert against(longer, make_row(seed=3)).findings == []


# First losses


def shifted(step: int, share: float) -> list[float]:
    return [loss * (1 + share) if index == step else loss for index, loss in enumerate(LOSSES)]


@pytest.mark.parametrize(("share", "alarm"), [(0.9e-4, False), (1.1e-4, True), (-1.1e-4, True), (math.nan, True)])
def test_losses_on_the_same_platform(share: float, alarm: bool) -> None:
    found = against(make_row(seed=3, first_losses=shifted(2, share)))
    assert [finding.column for finding in found.findings] == ["first_losses[2] (seed 3)"] * alarm


def test_the_tolerance_of_losses_can_be_set() -> None:
    row = make_row(seed=3, first_losses=shifted(0, 0.004))
    assert against(row).failures
    assert not against(row, loss=0.005).failures


def test_fewer_losses_are_a_change() -> None:
    assert only(against(make_row(seed=3, first_losses=LOSSES[:4]))).column == "first_losses[4] (seed 3)"


@pytest.mark.parametrize(
    "change",
    some(
        [{"device_name": "Another"}, {"threads": 2}, {"linear_kernel": "onednn"}, {"torch": "2.9.0+cpu"}, {"timm": "1.0.23"}], 2
    ),
)
@pytest.mark.parametrize(("share", "alarm"), [(0.9e-3, False), (1.1e-3, True)])
def test_losses_on_a_similar_platform(change: dict[str, Any], share: float, alarm: bool) -> None:
    found = against(make_row(seed=3, first_losses=shifted(4, share), **change))
    assert bool(found.failures) == alarm
    assert "Baseline made on Linux x86_64, cpu A processor, 1 thread, torch 2.9.1, timm 1.0.22. Now: " in found.notes[0]
    assert "first losses may differ by 0.1 % (not 0.01 %)" in found.notes[1]


def test_losses_of_a_method_that_is_bound_to_its_platform() -> None:
    baseline = as_frame(grid(range(8), ("viapt:scaffold",)))
    other = make_row("viapt:scaffold", seed=3, first_losses=[9.0] * 5)
    here = compare(baseline, as_frame([other]), Tolerances())
    assert here.failures
    assert "vpbench check --update --methods viapt:scaffold" in here.notes[0]
    found = compare(baseline, as_frame([{**other, "threads": 2}]), Tolerances())
    assert found.findings == []
    assert "depend on it by more than rounding" in skipped(found, "losses")


@pytest.mark.parametrize("change", some([{"torch": "2.10.0"}, {"platform": "Darwin arm64"}, {"device": "cuda"}], 1))
def test_losses_on_a_foreign_platform_are_not_compared_and_that_is_said(change: dict[str, Any]) -> None:
    found = against(make_row(seed=3, first_losses=[9.0] * 5, **change))
    assert found.findings == []
    assert "random numbers and kernels may differ" in skipped(found, "losses")
    assert "Random numbers may be others there" in found.notes[1]


def test_losses_of_a_seed_that_the_baseline_lacks() -> None:
    found = against(make_row(seed=99))
    assert found.findings == []
    assert skipped(found, "losses") == "seed 99 is not in the baseline"


@pytest.mark.parametrize("change", some([{}, {"platform": "Darwin arm64"}], 1))
def test_a_seed_that_changes_nothing(change: dict[str, Any]) -> None:
    """Seen on any platform: the losses are those of another seed."""
    finding = only(against(make_row(seed=99, first_losses=LOSSES, **change)))
    assert (finding.column, finding.now) == ("first_losses (seed 99)", "those of seed 3")
    found = against(*(make_row(seed=seed, first_losses=[2.0, 1.0], **change) for seed in (98, 99)))
    assert [finding.now for finding in found.findings] == ["those of seed 99", "those of seed 98"]


def test_numbers_that_depend_on_the_seed_are_compared_with_the_same_seed() -> None:
    pruned = as_frame([make_row(seed=seed, params_active=1000 + seed) for seed in range(4)])
    assert compare(pruned, as_frame([make_row(seed=2, params_active=1002)]), Tolerances()).findings == []
    assert only(compare(pruned, as_frame([make_row(seed=2, params_active=1003)]), Tolerances())).baseline == "1,002"
    elsewhere = make_row(seed=2, params_active=1003, device_name="Another")
    assert compare(pruned, as_frame([elsewhere]), Tolerances()).findings == []


# Accuracy


def test_accuracy_within_what_the_seeds_allow() -> None:
    values = BASELINE[BASELINE["method"] == "vpt"]["acc1"]
    mean, reach = values.mean(), 4.785 * values.std() * math.sqrt(1 / 8 + 1)  # t(7) at 1 - 0.002 / 2
    assert against(make_row(seed=99, acc1=mean + 0.999 * reach), false_alarm=0.002).findings == []
    finding = only(against(make_row(seed=99, acc1=mean - 1.001 * reach), false_alarm=0.002))
    assert (finding.column, finding.baseline) == ("acc1", f"{mean:.1f} ± {values.std():.1f} (n = 8)")
    assert finding.allowed == f"{mean - reach:.1f} to {mean + reach:.1f}"


def test_more_cells_widen_the_interval() -> None:
    one, three = against(make_row(seed=3)), compare(BASELINE, as_frame(grid([3])), Tolerances())
    assert (one.cell_alarm, three.cell_alarm) == (0.01, 0.01 / 3)
    assert three.false_alarm == 0.01
    assert three.accuracies[1].high - three.accuracies[1].low > one.accuracies[0].high - one.accuracies[0].low


def test_seeds_that_agree_by_chance_leave_the_test_images_error() -> None:
    low, high = prediction_interval([70.0] * 5, 797, 1, 0.05)
    reach = 2.776 * math.sqrt(0.7 * 0.3 / 799) * 100 * math.sqrt(1 / 5 + 1)  # t(4) at 0.975
    assert (high - low) / 2 == pytest.approx(reach, rel=2e-3)
    assert prediction_interval([100.0] * 5, 797, 1, 0.05)[0] < 100


def test_one_seed_in_the_baseline_says_nothing_of_accuracy() -> None:
    found = compare(as_frame([make_row(seed=3)]), as_frame([make_row(seed=99, acc1=1.0)]), Tolerances())
    assert found.findings == []
    assert "one seed" in skipped(found, "accuracy")
    assert found.false_alarm == 0


@pytest.mark.parametrize(("shift", "alarm"), some([(0.9, False), (-0.9, False), (1.1, True), (-1.1, True)], 2))
def test_a_seed_repeats_its_accuracy_on_the_same_platform(shift: float, alarm: bool) -> None:
    before = make_row(seed=3)["acc1"]
    found = against(make_row(seed=3, acc1=before + shift))
    assert [finding.column for finding in found.findings] == ["acc1 (seed 3)"] * alarm
    assert against(make_row(seed=3, acc1=before + shift, threads=2)).findings == []
    alone = compare(as_frame([make_row(seed=3)]), as_frame([make_row(seed=3, acc1=before + shift)]), Tolerances())
    assert len(alone.findings) == alarm


@pytest.mark.parametrize("spread", some([6.0, 0.5], 1))
def test_the_false_alarm_rate_is_what_is_said(spread: float) -> None:
    """Grids whose accuracies differ by chance only: seed-to-seed normal, rounded to whole test images."""
    rng, grids, cells, seeds, images, rate = np.random.default_rng(0), 4000, 6, 8, 797, 0.05
    alarms = 0
    for _ in range(grids):
        accuracies = np.rint(rng.normal(60, spread, (cells, seeds + 1)) * images / 100) * 100 / images
        for *baseline, now in accuracies:
            low, high = prediction_interval(baseline, images, 1, rate / cells)
            if not low <= now <= high:
                alarms += 1
                break
    error = 3 * math.sqrt(rate * (1 - rate) / grids)
    assert alarms / grids <= rate + error
    if spread > 2:  # above the floor of the test images' error the rate is met, not only kept
        assert alarms / grids >= rate - error - rate**2


# Costs


def test_costs_are_ratios_to_linear_probing_in_the_same_run() -> None:
    """A machine three times slower changes nothing; a method twice as slow beside the others is reported."""
    slow = {"latency_ms_p50": 12.0, "train_step_ms": 300.0}
    usual = {name: 1.4 * value for name, value in slow.items()}
    assert against(make_row("linear", seed=3, **slow), make_row(seed=3, **usual)).findings == []
    twice = against(make_row("linear", seed=3, **slow), make_row(seed=3, **{**usual, "train_step_ms": 840.0}))
    finding = only(twice)
    assert (finding.column, finding.baseline, finding.now) == ("train_step_ms / linear", "1.40", "2.80")
    assert (finding.allowed, finding.fails, twice.failures) == ("up to 2.10", False, [])


def test_costs_fail_when_asked_to() -> None:
    rows = make_row("linear", seed=3), make_row(seed=3, latency_ms_p50=40.0)
    assert len(against(*rows, fail_on_cost=True).failures) == 1
    assert against(*rows, fail_on_cost=True, cost=9.5).failures == []


def test_costs_need_the_reference() -> None:
    assert "linear is not in both runs" in skipped(against(make_row(seed=3)), "cost")


# Tolerances


@pytest.mark.parametrize("text", ["loss", "loss=", "loss=x", "loss=-1", "loss=nan", "cost=inf", "false_alarm=1", "los=1e-3"])
def test_bad_tolerances(text: str) -> None:
    with pytest.raises(UsageError, match="loss" if text.startswith("los") else text.split("=")[0]):
        Tolerances.of([text])


def test_tolerances() -> None:
    assert Tolerances.of(["loss=1e-3", "false_alarm=0.05"]) == Tolerances(loss=1e-3, false_alarm=0.05)
