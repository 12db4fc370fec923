"""Accuracy of a model on a split, as integer counts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Scores:
    """Predictions on one split.

    Attributes:
        labels: true class ids, (n,).
        ranked: the five (or fewer) most probable class ids per image, best first, (n, min(5, classes)).
        confidence: probability of the first, (n,).
        classes: number of classes.
        features: that the head reads, of the first images, (m, D); None unless asked for.
        probabilities: of all classes, (n, classes); None unless asked for.
    """

    labels: npt.NDArray[np.int64]
    ranked: npt.NDArray[np.int64]
    confidence: npt.NDArray[np.float32]
    classes: int
    features: npt.NDArray[np.float16] | None = None
    probabilities: npt.NDArray[np.float16] | None = None

    @property
    def total(self) -> int:
        return len(self.labels)

    @property
    def correct(self) -> int:
        return int((self.ranked[:, 0] == self.labels).sum())

    @property
    def correct5(self) -> int:
        return int((self.ranked == self.labels[:, None]).any(1).sum())

    @property
    def acc1(self) -> float:
        """Top-1 accuracy, percent."""
        return 100 * self.correct / self.total

    @property
    def acc5(self) -> float | None:
        """Top-5 accuracy, percent; None below six classes, where it says nothing."""
        return 100 * self.correct5 / self.total if self.classes > 5 else None

    @property
    def mean_per_class(self) -> float:
        """Mean over the classes present of their top-1 accuracies, percent."""
        hit = self.ranked[:, 0] == self.labels
        return float(100 * np.mean([hit[self.labels == label].mean() for label in np.unique(self.labels)]))
