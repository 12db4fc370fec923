"""Each statistic against a value by hand or of a library, and under a simulated null hypothesis."""

from __future__ import annotations

from math import comb
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from report_rows import fill, make_row, title_of
from sweeps import some

from vpbench.core.errors import UsageError
from vpbench.reporting.comparisons import compare
from vpbench.reporting.frame import Filters
from vpbench.reporting.make_report import make_report
from vpbench.reporting.statistics import (
    TooFewError,
    compare_hits,
    compare_regions,
    friedman,
    holm,
    mcnemar_p,
    wilcoxon_p,
    wins,
)
from vpbench.reporting.table import Cell, Section
from vpbench.store.store import Store


def hits(pattern: str) -> Any:
    return np.array([mark == "1" for mark in pattern])


# Plain arrays


def test_mcnemar_by_hand() -> None:
    """Nine images on which the two disagree, one for the first and eight for the second: twice the binomial tail."""
    first, second = hits("1" + "0" * 8 + "11111"), hits("0" + "1" * 8 + "11111")
    assert mcnemar_p(first, second) == pytest.approx(2 * (comb(9, 0) + comb(9, 1)) / 2**9)
    assert mcnemar_p(first, first) == 1


def pixels(seed: int, right: float, seeds: int = 1, images: int = 60, classes: int = 3) -> Any:
    """Intersection and union of every class in every image; ``right`` is the share of right pixels."""
    generator = np.random.default_rng(seed)
    labelled = generator.integers(20, 200, (1, images, classes)).astype(float)
    labelled[:, :, -1] = 0  # the last class is in no image
    intersection = np.floor(labelled * np.clip(right + 0.1 * generator.standard_normal((seeds, images, classes)), 0, 1))
    return np.stack([intersection, 2 * labelled - intersection], axis=2)


def mean_iou(regions: Any) -> float:
    intersection, union = regions.sum(axis=0)
    return float(100 * (intersection[union > 0] / union[union > 0]).mean())


@pytest.mark.parametrize("seeds", [1, 3])
def test_regions_of_equal_and_of_unequal_methods(seeds: int) -> None:
    first, second = pixels(0, 0.8, seeds), pixels(1, 0.5, seeds)
    second[:, :, 1] += first[:, :, 0] + first[:, :, 1] - second[:, :, 0] - second[:, :, 1]  # the same labels
    found = compare_regions(first, second, draws=2000)
    assert found.difference == pytest.approx(np.mean([mean_iou(a) - mean_iou(b) for a, b in zip(first, second)]))
    assert found.low < found.difference < found.high and found.low > 0 and found.p < 0.01 and found.test == "bootstrap"
    assert compare_regions(first, second, draws=2000) == found
    same = compare_regions(first, first, draws=200)
    assert (same.difference, same.low, same.high, same.p) == (0, 0, 0, 1)


def test_regions_are_drawn_by_images() -> None:
    first, second = pixels(0, 0.7), pixels(2, 0.7)
    found = compare_regions(first, second, draws=4000)
    generator = np.random.default_rng(5)
    drawn = [
        mean_iou(first[0, chosen]) - mean_iou(second[0, chosen])
        for chosen in (generator.integers(0, 60, 60) for _ in range(1000))
    ]
    low, high = np.quantile(drawn, [0.025, 0.975])
    assert found.high - found.low == pytest.approx(high - low, rel=0.15)
    assert found.low == pytest.approx(low, abs=0.15 * (high - low))


def test_regions_of_too_few_images() -> None:
    few = pixels(0, 0.8, images=29)
    with pytest.raises(TooFewError, match="needs 30, and there are 29"):
        compare_regions(few, few)


def test_wilcoxon_by_hand() -> None:
    """Six differences of one sign: the most extreme of 64 sign patterns, two-sided."""
    assert wilcoxon_p([1, 2, 3, 4, 5, 6]) == pytest.approx(2 / 64)
    # The rank sum of the negative ones is 1: two of 64 patterns are as extreme on each side.
    assert wilcoxon_p([-1, 2, 3, 4, 5, 6]) == pytest.approx(4 / 64)
    assert wilcoxon_p([0] * 6) == 1
    with pytest.raises(TooFewError, match="needs 6 data sets, and there are 5"):
        wilcoxon_p([1, 2, 3, 4, 5])


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]).tolist() == pytest.approx([0.03, 0.06, 0.06])
    assert holm([]).tolist() == []


def scores_of(*rows: tuple[float, ...]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=list("abcd")[: len(rows[0])], dtype=float)


def test_friedman_and_nemenyi_by_hand() -> None:
    """Five data sets that all rank a before b before c: chi2 = 12 n / (k (k + 1)) sum (mean rank - 2)^2 = 10."""
    found = friedman(scores_of(*[(3.0 + shift, 2.0 + shift, 1.0 + shift) for shift in range(5)]))
    assert found.ranks.to_dict() == {"a": 1, "b": 2, "c": 3}
    assert found.statistic == pytest.approx(10)
    assert found.p == pytest.approx(np.exp(-10 / 2))  # chi2 with two degrees of freedom
    # Demsar 2006, table 5: q = 2.343 for three methods.
    assert found.critical == pytest.approx(2.343 * np.sqrt(3 * 4 / (6 * 5)), abs=1e-3)
    assert found.nemenyi.loc["a", "c"] < 0.05 < found.nemenyi.loc["a", "b"]
    assert np.allclose(found.nemenyi, found.nemenyi.T)


DEMSAR = [
    (0.763, 0.768, 0.771, 0.798), (0.599, 0.591, 0.590, 0.569), (0.954, 0.971, 0.968, 0.967), (0.628, 0.661, 0.654, 0.657),
    (0.882, 0.888, 0.886, 0.898), (0.936, 0.931, 0.916, 0.931), (0.661, 0.668, 0.609, 0.685), (0.583, 0.583, 0.563, 0.625),
    (0.775, 0.838, 0.866, 0.875), (1.000, 1.000, 1.000, 1.000), (0.940, 0.962, 0.965, 0.962), (0.619, 0.666, 0.614, 0.669),
    (0.972, 0.981, 0.9751, 0.975), (0.957, 0.978, 0.946, 0.970),
]  # fmt: skip


def test_friedman_of_demsars_example() -> None:
    """Demsar 2006, table 6: C4.5 and three variants on 14 data sets; mean ranks 3.143, 2.000, 2.893, 1.964, chi2 9.28."""
    found = friedman(scores_of(*DEMSAR))
    assert found.ranks.tolist() == pytest.approx([3.143, 2.000, 2.893, 1.964], abs=5e-4)
    assert found.critical == pytest.approx(1.25, abs=0.01)


def test_friedman_refuses_and_survives_ties() -> None:
    with pytest.raises(TooFewError, match="needs 3 methods, and there are 2"):
        friedman(scores_of(*[(1.0, 2.0)] * 9))
    with pytest.raises(TooFewError, match="needs 5 data sets"):
        friedman(scores_of(*[(1.0, 2.0, 3.0)] * 4))
    assert friedman(scores_of(*[(1.0, 1.0, 1.0)] * 6)).p == 1


def test_wins_ties_losses() -> None:
    assert wins([1.0, 0.04, -0.04, -2.0, 0.06]) == (2, 2, 1)


def test_interval_by_the_normal_approximation() -> None:
    """One seed, 1,000 images of which the first wins 100 and loses 50: 5 points, deviation of the mean sqrt(0.1475/1000)."""
    first, second = np.zeros((1, 1000), bool), np.zeros((1, 1000), bool)
    first[0, :100] = True
    second[0, 100:150] = True
    found = compare_hits(first, second)
    half = 196 * np.sqrt((0.15 - 0.05**2) / 1000)
    assert found.difference == pytest.approx(5)
    assert (found.low, found.high) == (pytest.approx(5 - half, abs=0.15), pytest.approx(5 + half, abs=0.15))
    assert found.test == "McNemar"


def test_few_images_have_no_bootstrap() -> None:
    """Of 18 images nine decide, all for the first: McNemar's exact p is 2 / 2^9, and draws of images are surer than that."""
    first, second = np.zeros((2, 18), bool), np.zeros((2, 18), bool)
    first[:, :9] = True
    with pytest.raises(TooFewError, match="the bootstrap over images needs 30, and there are 18"):
        compare_hits(first, second)
    one = compare_hits(first[:1], second[:1])
    assert one.p == pytest.approx(2 / 2**9)
    assert np.isnan(one.low) and np.isnan(one.high)


def test_copies_of_a_seed_are_no_more_evidence() -> None:
    """Ten seeds that agree on every image say no more of images than one does."""
    generator = np.random.default_rng(0)
    first, second = generator.random((1, 300)) < 0.8, generator.random((1, 300)) < 0.7
    one, ten = compare_hits(first, second), compare_hits(np.repeat(first, 10, 0), np.repeat(second, 10, 0))
    assert (ten.low, ten.high) == (pytest.approx(one.low, abs=0.7), pytest.approx(one.high, abs=0.7))


def test_seeds_that_disagree_widen_the_interval() -> None:
    """On every image the first wins with one seed and loses with the other: nothing is known, and images cannot help."""
    first = np.array([[True] * 1000, [False] * 1000])
    found = compare_hits(first, ~first)
    assert found.difference == 0
    assert found.high > 200  # Student's t with one degree of freedom


@pytest.mark.parametrize(
    ("seeds", "spread", "images"),
    some([(1, 0.0, 0.1), (3, 0.0, 0.1), (3, 0.1, 0.0), (5, 0.03, 0.1)], 2),
    ids=["one seed", "seeds alike", "seeds apart", "both"],
)
def test_rejections_of_a_true_null(seeds: int, spread: float, images: float) -> None:
    """Two methods of the same accuracy, whose seeds and images differ: about 5 % of 200 comparisons find a difference."""
    generator = np.random.default_rng(1)
    found = 0
    for trial in range(200):
        hardness = np.clip(0.8 + 0.2 * generator.normal(size=200), 0.02, 0.98)
        sides = []
        for _ in range(2):
            own = hardness + images * generator.normal(size=200) + spread * generator.normal(size=(seeds, 1))
            sides.append(generator.random((seeds, 200)) < np.clip(own, 0, 1))
        found += compare_hits(*sides, seed=trial, draws=2000).p < 0.05
    assert 1 <= found <= 20  # 0.5 % to 10 %; three deviations around 5 % are 0.4 % and 9.6 %


@pytest.mark.sweep
def test_rejections_over_data_sets() -> None:
    generator = np.random.default_rng(2)
    trials = 200
    signed = sum(wilcoxon_p(generator.normal(size=12)) < 0.05 for _ in range(trials))
    ranked = sum(friedman(pd.DataFrame(generator.normal(size=(12, 4)))).p < 0.05 for _ in range(trials))
    for found in (signed, ranked):
        assert 0.01 * trials <= found <= 0.1 * trials


# Against values of statsmodels 0.15.0 (Holm, McNemar) and scikit-posthocs 0.17.1 (Nemenyi)


def test_holm_of_statsmodels() -> None:
    assert holm([0.001, 0.04, 0.03, 0.2, 0.011, 0.6, 0.04]).tolist() == pytest.approx([0.007, 0.16, 0.15, 0.4, 0.066, 0.6, 0.16])


def test_mcnemar_of_statsmodels() -> None:
    first, second = hits("1" * 30 + "0" * 11 + "1" * 4 + "0" * 5), hits("1" * 30 + "1" * 11 + "0" * 4 + "0" * 5)
    assert mcnemar_p(first, second) == pytest.approx(0.11846923828124999, rel=1e-12)


def test_nemenyi_of_scikit_posthocs() -> None:
    found = friedman(scores_of(*DEMSAR)).nemenyi.to_numpy()
    expected = [0.08867270928888271, 0.9561771752218107, 0.07418479506874454, 0.2592280701547286, 0.999859449385133,
                0.22669688602641525]  # fmt: skip
    assert found[np.triu_indices(4, 1)].tolist() == pytest.approx(expected, rel=1e-9)
    assert np.diag(found).tolist() == [1, 1, 1, 1]


# From a store


def save_predictions(store: Store, run_id: str, labels: Any, right: Any) -> None:
    ranked = np.stack([np.where(right, labels, labels + 1), labels], axis=1)
    store.write_artefact(run_id, "predictions.npz", lambda path: _save(path, labels, ranked))


def _save(path: Path, labels: Any, ranked: Any) -> None:
    with path.open("wb") as stream:
        np.savez(stream, labels=labels, ranked=ranked, confidence=np.ones(len(labels), np.float32))


def store_of(folder: Path, accuracy: dict[str, float], datasets: int = 1, seeds: int = 3, **columns: Any) -> Store:
    generator = np.random.default_rng(3)
    store = Store(folder)
    for place in range(datasets):
        for method, share in accuracy.items():
            for seed in range(seeds):
                right = generator.random(200) < share - 0.02 * place
                row = make_row(method, f"data{place}", seed, 100 * float(right.mean()), **columns)
                store.write_row(row)
                save_predictions(store, row["run_id"], np.zeros(200, np.int64), right)
    return store


def compared(store: Store, **options: Any) -> Section:
    table = compare(store, store.load(), [("insvp", "vpt")], Filters(), **options)
    (section,) = table.sections
    return section


def row_cells(section: Section, dataset: str) -> dict[str, Cell]:
    row = next(row for row in section.rows if row.key == dataset)
    return {column.name: cell for column, cell in zip(section.columns, row.cells, strict=True)}


def test_a_comparison_says_what_was_tested(tmp_path: Path) -> None:
    store = store_of(tmp_path, {"insvp": 0.9, "vpt": 0.7}, datasets=6)
    section = compared(store)
    cells = row_cells(section, "data0")
    means = store.load().query("dataset == 'data0'").groupby("method")["acc1"].mean()
    assert cells["Difference"].mean == pytest.approx(means["insvp"] - means["vpt"])
    assert cells["p"].text == "< 0.001"
    assert (cells["Seeds"].text, cells["Images"].text) == ("3", "200")
    notes = "\n".join(section.notes)
    assert "insvp wins 6, ties 0, loses 0 of 6 data sets" in notes
    assert "Over 6 data sets (Wilcoxon's signed-rank test of the differences, two-sided): p = 0.031." in notes
    text = make_report(results=tmp_path, compare=[("insvp", "vpt")], format="md")
    assert text == make_report(results=tmp_path, compare=[("insvp", "vpt")], format="md")
    assert "McNemar's exact test with one seed" in str(text)


def test_several_comparisons_are_adjusted(tmp_path: Path) -> None:
    store = store_of(tmp_path, {"insvp": 0.9, "vpt": 0.7, "linear": 0.5}, datasets=6, seeds=1)
    table = compare(store, store.load(), [("insvp", "vpt"), ("insvp", "linear")], Filters())
    assert all(section.notes[-1] == "Adjusted by Holm for 2 such comparisons: p = 0.062." for section in table.sections)


def test_too_few_of_anything_is_said(tmp_path: Path) -> None:
    store = store_of(tmp_path, {"insvp": 0.9, "vpt": 0.7})
    store.write_row(make_row("vpt", "data0", 9))
    store.write_row(make_row("vpt", "alone", 9))
    runs = [make_row(method, "bare", 0, acc1) for method, acc1 in (("insvp", 70.0), ("vpt", 71.0))]
    for row in runs:
        store.write_row(row)
    store.artefact_path(runs[0]["run_id"], "predictions.npz").parent.mkdir(parents=True)
    store.artefact_path(runs[0]["run_id"], "predictions.npz").write_bytes(b"broken")
    section = compared(store)
    notes = "\n".join(section.notes)
    assert "data0: seeds 9 left out, as only one of the two has them." in notes
    assert "alone: left out, as the two share no seed." in notes
    assert "bare: not tested, as 2 runs have no readable predictions (--save predictions)." in notes
    assert "Over data sets: not tested. Wilcoxon's test needs 6 data sets, and there are 2." in notes
    assert row_cells(section, "bare")["p"] == Cell()


def test_few_images_are_said_and_not_tested(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for method, right in (("insvp", 16), ("vpt", 7)):
        for seed in (0, 1):
            row = make_row(method, "few", seed, 100 * right / 18)
            store.write_row(row)
            save_predictions(store, row["run_id"], np.zeros(18, np.int64), np.arange(18) < right)
    section = compared(store)
    assert "few: not tested, as the bootstrap over images needs 30, and there are 18." in section.notes
    cells = row_cells(section, "few")
    assert cells["p"] == cells["95 % interval"] == Cell()
    assert cells["Images"].text == "18"
    text = str(make_report(results=tmp_path, compare=[("InsVP", "VPT")], format="md"))
    assert "the spread between them that the images do not explain is added" in text
    assert "Below 30 images there is neither an interval nor a test of several seeds." in text


def test_other_images_are_not_tested(tmp_path: Path) -> None:
    store = store_of(tmp_path, {"insvp": 0.9, "vpt": 0.7}, seeds=1)
    save_predictions(store, store.load()["run_id"].iloc[0], np.ones(200, np.int64), np.ones(200, bool))
    assert "data0: not tested, as the runs were tested on other images." in compared(store).notes


def test_mistakes_in_a_comparison(tmp_path: Path) -> None:
    store = fill(tmp_path, make_row("vpt"), make_row("insvp", recipe={"epochs": 100}), make_row("linear", "flowers"))
    runs = store.load()
    with pytest.raises(UsageError, match=r"differ in 12 epochs; 100 epochs\); --mix compares them anyway"):
        compare(store, runs, [("vpt", "insvp")], Filters())
    assert compare(store, runs, [("vpt", "insvp")], Filters(), mix=True).sections
    with pytest.raises(UsageError, match=r"unknown method 'vptt'\. Did you mean 'vpt'"):
        compare(store, runs, [("vptt", "insvp")], Filters())
    with pytest.raises(UsageError, match="share no data set and seed"):
        compare(store, runs, [("vpt", "linear")], Filters())
    with pytest.raises(UsageError, match="with itself"):
        compare(store, runs, [("vpt", "vpt")], Filters())
    with pytest.raises(UsageError, match="one at a time"):
        make_report(1, results=tmp_path, statistics=True)


def test_two_runs_of_one_seed_are_named_when_mixing(tmp_path: Path) -> None:
    twice = [make_row("vpt"), make_row("vpt", recipe={"epochs": 100})]
    store = fill(tmp_path, make_row("insvp"), *twice)
    with pytest.raises(UsageError, match="several runs of vpt on digits with one seed: choose with --suite or --backbone"):
        compare(store, store.load(), [("insvp", "vpt")], Filters(), mix=True)


def test_variants_are_compared_by_their_labels(tmp_path: Path) -> None:
    rows = [make_row("vpt"), make_row("vpt", "flowers"), make_row("vpt", acc1=83.0, options={"prompt_length": 50}, minutes=1)]
    store = fill(tmp_path, *rows)
    table = compare(store, store.load(), [("vpt (prompt_length=50)", "vpt")], Filters())
    assert table.sections[0].rows[0].cells[2].mean == 3
    assert title_of(table.sections[0], table).startswith("vpt (prompt_length=50) against vpt: vit-nano, ")
