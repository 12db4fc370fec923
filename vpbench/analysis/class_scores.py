"""Scores that weigh classes, from predictions: macro F1, and accuracies of classes with many, some and few training images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vpbench.core.errors import StoreError
from vpbench.store.arrays import read_arrays
from vpbench.store.store import Store

Ids = NDArray[np.int64]
MANY, FEW = 100, 20
"""Training images of a class: more than ``MANY``, ``MANY`` to ``FEW``, or fewer; Liu et al., Large-Scale Long-Tailed Recognition
in an Open World, CVPR 2019, section 4."""


def macro_f1(labels: Ids, predicted: Ids) -> float:
    """Mean F1 of the classes that are true or predicted somewhere, percent; as scikit-learn's ``f1_score(average="macro")``."""
    size = int(max(labels.max(), predicted.max())) + 1
    right = np.bincount(labels[labels == predicted], minlength=size)
    total = np.bincount(labels, minlength=size) + np.bincount(predicted, minlength=size)
    present = total > 0
    return float(100 * (2 * right[present] / total[present]).mean())


def shot_accuracies(labels: Ids, predicted: Ids, train_counts: Ids) -> dict[str, float]:
    """``many``, ``medium`` and ``few``: top-1 accuracy, percent, of the test images whose class has more than 100, 20 to 100, or
    fewer than 20 training images; those of no image are left out."""
    counts = train_counts[labels]
    groups = {"many": counts > MANY, "medium": (counts <= MANY) & (counts >= FEW), "few": counts < FEW}
    right = labels == predicted
    return {name: float(100 * right[chosen].mean()) for name, chosen in groups.items() if chosen.any()}


@dataclass(frozen=True)
class Predictions:
    """What ``--save predictions`` left of a run.

    Attributes:
        labels: true class ids, (n,).
        predicted: most probable ones, (n,).
        train_counts: training images per class, (classes,); None in files of earlier versions.
        class_names: empty in files of earlier versions.
    """

    labels: Ids
    predicted: Ids
    train_counts: Ids | None
    class_names: tuple[str, ...] = ()

    def scores(self) -> dict[str, float]:
        """``macro_f1``, and ``many``, ``medium`` and ``few`` where classes differ in that, percent."""
        shots = {} if self.train_counts is None else shot_accuracies(self.labels, self.predicted, self.train_counts)
        return {"macro_f1": macro_f1(self.labels, self.predicted), **(shots if len(shots) > 1 else {})}


def read_predictions(store: Store, run_id: str) -> Predictions | None:
    """The predictions of a run; None where it left none.

    Raises:
        StoreError: when the file is no such archive, or not of images by class.
    """
    arrays = read_arrays(store, run_id, "predictions", ("labels", "ranked"), ("train_counts", "class_names"))
    if arrays is None:
        return None
    labels, ranked = arrays["labels"], arrays["ranked"]
    if labels.ndim != 1 or ranked.ndim != 2 or len(labels) != len(ranked):
        raise StoreError(f"the predictions of run {run_id} are none of images by class. Run it again with --save predictions.")
    counts = arrays["train_counts"].astype(np.int64) if "train_counts" in arrays else None
    names = tuple(map(str, arrays.get("class_names", ())))
    return Predictions(labels.astype(np.int64), ranked[:, 0].astype(np.int64), counts, names)
