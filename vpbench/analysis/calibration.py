"""Calibration of stored probabilities: expected calibration error, negative log-likelihood, Brier score, temperature scaling.

Probabilities are stored as float16 (``--save probabilities``), with a relative error of 5e-4: an ECE is exact to about that, and
probabilities below 6e-8 count as 6e-8 in the likelihood.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

from vpbench.core.errors import StoreError
from vpbench.store.arrays import read_arrays
from vpbench.store.artefacts import ARTEFACTS
from vpbench.store.store import Store

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]
BINS = 15  # Guo et al., On Calibration of Modern Neural Networks, ICML 2017, section 4
SMALLEST = 2.0**-24  # the smallest positive float16
TEMPERATURES = (0.01, 100.0)  # between which the fitted one is looked for


@dataclass(frozen=True)
class Reliability:
    """Images in bins of equal width by the probability of the predicted class; bin b is ((b - 1) / n, b / n].

    Attributes:
        count: images per bin, (n,).
        confidence: their mean probability, 0 where there are none, (n,).
        accuracy: the share of them that is right, (n,).
    """

    count: Labels
    confidence: Floats
    accuracy: Floats

    def error(self, norm: Literal["l1", "l2", "max"] = "l1") -> float:
        """Distance of accuracy and confidence, in 0 ... 1: the mean over images (l1: ECE), its root mean square, or the largest
        of a bin that is not empty (MCE)."""
        gaps, weights = np.abs(self.accuracy - self.confidence), self.count / self.count.sum()
        if norm == "max":
            return float(gaps[self.count > 0].max())
        return float((weights * gaps).sum() if norm == "l1" else np.sqrt((weights * gaps**2).sum()))


def reliability(probabilities: Floats, labels: Labels, bins: int = BINS) -> Reliability:
    """Of probabilities (n, classes) and true class ids (n,)."""
    confidence = probabilities.max(1)
    right = (probabilities.argmax(1) == labels).astype(float)
    places = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    count = np.bincount(places, minlength=bins)
    least = np.maximum(count, 1)
    return Reliability(count, np.bincount(places, confidence, bins) / least, np.bincount(places, right, bins) / least)


def negative_log_likelihood(probabilities: Floats, labels: Labels) -> float:
    """Mean of -log p of the true class, natural logarithm."""
    return float(-np.log(np.maximum(_true(probabilities, labels), SMALLEST)).mean())


def brier_score(probabilities: Floats, labels: Labels) -> float:
    """Mean over images of the squared distance to the true class's unit vector, 0 ... 2 (Brier 1950: a sum over classes)."""
    return float(((probabilities**2).sum(1) - 2 * _true(probabilities, labels) + 1).mean())


def with_temperature(probabilities: Floats, temperature: float) -> Floats:
    """softmax(log p / T): logits are known up to a constant per image, which softmax does not see."""
    logits = np.log(np.maximum(probabilities, SMALLEST)) / temperature
    powers = np.exp(logits - logits.max(1, keepdims=True))
    found: Floats = powers / powers.sum(1, keepdims=True)
    return found


def fitted_temperature(probabilities: Floats, labels: Labels) -> float:
    """The temperature with the least negative log-likelihood, which has one minimum (in 1 / T it is convex)."""

    def loss(logarithm: float) -> float:
        return negative_log_likelihood(with_temperature(probabilities, float(np.exp(logarithm))), labels)

    found = minimize_scalar(loss, bounds=tuple(np.log(TEMPERATURES)), method="bounded", options={"xatol": 1e-6})
    return float(np.exp(found.x))


def _true(probabilities: Floats, labels: Labels) -> Floats:
    found: Floats = probabilities[np.arange(len(labels)), labels]
    return found


@dataclass(frozen=True)
class Probabilities:
    """What ``--save probabilities`` left of a run: of the test images, and of validation images, which may be none.

    Attributes:
        test, val: probabilities, (n, classes), rows that add up to 1.
        test_labels, val_labels: true class ids, (n,).
    """

    test: Floats
    test_labels: Labels
    val: Floats
    val_labels: Labels

    def temperature(self) -> float | None:
        """Fitted on the validation images; None without any."""
        return fitted_temperature(self.val, self.val_labels) if len(self.val_labels) else None

    def scores(self) -> dict[str, float]:
        """``ece`` and ``ece_scaled`` in percent, ``nll``, ``nll_scaled``, ``brier``, ``brier_scaled`` and ``temperature``; those
        with a temperature only where there are validation images."""
        found = _scores(self.test, self.test_labels)
        if (temperature := self.temperature()) is None:
            return found
        scaled = _scores(with_temperature(self.test, temperature), self.test_labels)
        return {**found, **{f"{name}_scaled": value for name, value in scaled.items()}, "temperature": temperature}


def _scores(probabilities: Floats, labels: Labels) -> dict[str, float]:
    return {
        "ece": 100 * reliability(probabilities, labels).error(),
        "nll": negative_log_likelihood(probabilities, labels),
        "brier": brier_score(probabilities, labels),
    }


def read_probabilities(store: Store, run_id: str) -> Probabilities | None:
    """The probabilities of a run; None where it left none.

    Raises:
        StoreError: when the file is no such archive.
    """
    arrays = read_arrays(store, run_id, "probabilities", ("probabilities", "labels", "val_probabilities", "val_labels"))
    if arrays is None:
        return None
    test, labels, val, val_labels = arrays.values()
    if test.ndim != 2 or val.ndim != 2 or len(test) != len(labels) or len(val) != len(val_labels):
        path = store.artefact_path(run_id, ARTEFACTS["probabilities"])
        raise StoreError(f"{path} holds no probabilities of images by class. Run it again with --save probabilities.")
    if not len(test):
        return None  # of a task without probabilities of images
    return Probabilities(_rows(test), labels.astype(np.int64), _rows(val), val_labels.astype(np.int64))


def _rows(stored: NDArray[np.float16]) -> Floats:
    """float16 rows add up to 1 but for rounding."""
    exact = stored.astype(np.float64)
    found: Floats = exact / np.maximum(exact.sum(1, keepdims=True), SMALLEST)
    return found
