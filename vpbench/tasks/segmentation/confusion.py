"""Confusion matrix of a segmentation, and the scores that follow from it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vpbench.data.masks import IGNORED

Scores = NDArray[np.float64]
Counts = NDArray[np.int64]


@dataclass(frozen=True)
class RegionCounts:
    """Pixels of each class, (..., K): of one image or of a whole set; counts of parts add up.

    Attributes:
        intersection: predicted and labelled so.
        predicted: predicted so, among pixels with a label.
        labelled: labelled so.
    """

    intersection: Counts
    predicted: Counts
    labelled: Counts

    @property
    def union(self) -> Counts:
        """Predicted or labelled so."""
        return self.predicted + self.labelled - self.intersection

    @property
    def iou(self) -> Scores:
        """Intersection over union per class in percent; NaN for a class that is neither predicted nor labelled."""
        return _percent(self.intersection, self.union)

    @property
    def accuracy(self) -> Scores:
        """Right pixels of each class in percent; NaN for a class without labels."""
        return _percent(self.intersection, self.labelled)

    @property
    def mean_iou(self) -> float:
        """mIoU in percent: the mean over classes that are predicted or labelled; NaN where there is none."""
        return _mean(self.iou)

    @property
    def mean_accuracy(self) -> float:
        """mAcc in percent: the mean over classes with labels."""
        return _mean(self.accuracy)

    @property
    def pixel_accuracy(self) -> float:
        """aAcc in percent: right pixels of all with a label."""
        return float(_percent(self.intersection.sum(-1), self.labelled.sum(-1)))


class ConfusionMatrix:
    """Counts of labelled and predicted classes over a whole set: a mean over images or batches would be another number.

    Args:
        classes: number K.

    Attributes:
        counts: int64, (K, K): row = label, column = prediction.
    """

    def __init__(self, classes: int) -> None:
        self.classes = classes
        self.counts = torch.zeros(classes, classes, dtype=torch.int64)

    def add(self, predictions: Tensor, labels: Tensor) -> None:
        """Count the pixels of some images, or of a part of one; those labelled 255 are left out.

        Args:
            predictions: integers 0 to K-1, of any shape.
            labels: of the same shape, integers 0 to K-1, or 255.
        """
        self.counts += pixel_counts(predictions, labels, self.classes)

    def regions(self) -> RegionCounts:
        """Pixels per class so far."""
        return regions_of(self.counts.numpy())


def pixel_counts(predictions: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Confusion matrix of some pixels, int64 on the CPU, (K, K): row = label, column = prediction."""
    if predictions.shape != labels.shape:
        raise ValueError(f"predictions of shape {tuple(predictions.shape)}, labels of shape {tuple(labels.shape)}")
    known = labels != IGNORED
    pairs = labels[known].long() * classes + predictions[known].long()
    return torch.bincount(pairs, minlength=classes**2).reshape(classes, classes).cpu()


def regions_of(counts: Counts) -> RegionCounts:
    """Pixels per class of a confusion matrix (..., K, K)."""
    return RegionCounts(np.diagonal(counts, axis1=-2, axis2=-1), counts.sum(-2), counts.sum(-1))


def _percent(part: NDArray[np.int64], whole: NDArray[np.int64]) -> Scores:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(whole > 0, 100.0 * part / whole, np.nan)


def _mean(scores: Scores) -> float:
    return float(np.nanmean(scores)) if np.isfinite(scores).any() else float("nan")
