"""Calibration and scores that weigh classes, against numbers of published implementations."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import f1_score, log_loss

from vpbench.analysis.calibration import (
    SMALLEST,
    Probabilities,
    brier_score,
    fitted_temperature,
    negative_log_likelihood,
    read_probabilities,
    reliability,
    with_temperature,
)
from vpbench.analysis.class_scores import macro_f1, read_predictions, shot_accuracies
from vpbench.core.errors import StoreError
from vpbench.store.store import Store

# The documented example of torchmetrics' MulticlassCalibrationError (num_classes=3, n_bins=3).
EXAMPLE = np.array([[0.25, 0.20, 0.55], [0.55, 0.05, 0.40], [0.10, 0.30, 0.60], [0.90, 0.05, 0.05]])
LABELS = np.array([0, 1, 2, 0])
RANDOM = np.random.default_rng(0)


def random_probabilities(images: int = 400, classes: int = 7, sharpness: float = 2.0) -> tuple[np.ndarray, np.ndarray]:
    """Calibrated ones, with labels drawn from them."""
    logits = sharpness * RANDOM.standard_normal((images, classes))
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    return probabilities, np.array([RANDOM.choice(classes, p=row) for row in probabilities])


def test_ece_equals_torchmetrics_documented_example() -> None:
    bins = reliability(EXAMPLE, LABELS, 3)
    assert bins.error() == pytest.approx(0.2000, abs=5e-5)
    assert bins.error("l2") == pytest.approx(0.2082, abs=5e-5)
    assert bins.error("max") == pytest.approx(0.2333, abs=5e-5)
    assert bins.count.tolist() == [0, 3, 1]


def test_a_bin_includes_its_upper_end() -> None:
    """Guo et al., equation 3: ((m - 1) / M, m / M]."""
    bins = reliability(np.array([[0.6, 0.4], [0.4, 0.6], [1.0, 0.0]]), np.array([0, 0, 0]), 5)
    assert bins.count.tolist() == [0, 0, 2, 0, 1]
    assert bins.error() == pytest.approx((2 * abs(0.5 - 0.6) + 0) / 3)


def test_brier_and_likelihood() -> None:
    """The first by hand, summed over classes; the second as scikit-learn's."""
    assert brier_score(EXAMPLE[:1], LABELS[:1]) == pytest.approx(0.75**2 + 0.20**2 + 0.55**2)
    probabilities, labels = random_probabilities()
    units = np.eye(7)[labels]
    assert brier_score(probabilities, labels) == pytest.approx(((probabilities - units) ** 2).sum(1).mean())
    assert negative_log_likelihood(probabilities, labels) == pytest.approx(log_loss(labels, probabilities))
    assert negative_log_likelihood(np.array([[1.0, 0.0]]), np.array([1])) == pytest.approx(-math.log(SMALLEST))


def test_temperature_is_found_again() -> None:
    probabilities, labels = random_probabilities(4000, sharpness=1.5)
    assert fitted_temperature(probabilities, labels) == pytest.approx(1, abs=0.1)
    sharper = with_temperature(probabilities, 0.5)
    assert fitted_temperature(sharper, labels) == pytest.approx(2 * fitted_temperature(probabilities, labels), rel=1e-3)
    assert np.array_equal(sharper.argmax(1), probabilities.argmax(1))
    assert reliability(with_temperature(sharper, 2), labels).error() < reliability(sharper, labels).error()
    assert with_temperature(sharper, 2) == pytest.approx(probabilities, abs=1e-3)


def test_macro_f1_equals_scikit_learns() -> None:
    labels, predicted = RANDOM.integers(0, 9, 300), RANDOM.integers(0, 12, 300)
    assert macro_f1(labels, predicted) == pytest.approx(100 * f1_score(labels, predicted, average="macro"))


def test_accuracies_by_training_images() -> None:
    counts = np.array([500, 101, 100, 20, 19, 5])
    labels = np.arange(6).repeat(2)
    predicted = np.array([0, 0, 1, 5, 2, 0, 3, 3, 4, 0, 0, 0])
    assert shot_accuracies(labels, predicted, counts) == {"many": 75.0, "medium": 75.0, "few": 25.0}
    assert shot_accuracies(labels, predicted, np.full(6, 50)).keys() == {"medium"}


def stored(folder: Path, **arrays: np.ndarray) -> Store:
    store = Store(folder / "runs")
    store.write_artefact("a" * 32, "probabilities.npz", lambda path: np.savez(path.open("wb"), **arrays))
    return store


def test_stored_probabilities(tmp_path: Path) -> None:
    probabilities, labels = random_probabilities(300)
    half = probabilities.astype(np.float16)
    none = np.empty((0, 7), np.float16), np.empty(0, np.int64)
    store = stored(tmp_path, probabilities=half, labels=labels, val_probabilities=half, val_labels=labels)
    found = read_probabilities(store, "a" * 32)
    assert found is not None and found.test == pytest.approx(probabilities, abs=1e-3)
    scores = found.scores()
    assert scores["ece"] == pytest.approx(100 * reliability(probabilities, labels).error(), abs=0.6)
    assert scores["nll"] == pytest.approx(negative_log_likelihood(probabilities, labels), rel=1e-3)
    assert scores["nll_scaled"] <= scores["nll"] and set(scores) == {
        "ece", "nll", "brier", "temperature", "ece_scaled", "nll_scaled", "brier_scaled"
    }  # fmt: skip
    assert set(Probabilities(found.test, labels, *none).scores()) == {"ece", "nll", "brier"}
    assert read_probabilities(store, "b" * 32) is None and read_predictions(store, "b" * 32) is None


def test_damaged_files(tmp_path: Path) -> None:
    store = stored(tmp_path, labels=LABELS)
    with pytest.raises(StoreError, match=r"probabilities.npz holds no probabilities.*--save probabilities"):
        read_probabilities(store, "a" * 32)
    store = stored(tmp_path, probabilities=EXAMPLE, labels=LABELS[:2], val_probabilities=EXAMPLE, val_labels=LABELS)
    with pytest.raises(StoreError, match=r"holds no probabilities of images by class"):
        read_probabilities(store, "a" * 32)
