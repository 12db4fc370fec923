"""Accuracies against scikit-learn's."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, balanced_accuracy_score, top_k_accuracy_score

from vpbench.tasks.classification import Accuracies


def scores(labels: np.ndarray, logits: np.ndarray) -> Accuracies:
    ranked = np.argsort(-logits, axis=1)[:, :5]
    return Accuracies(labels, ranked, logits.max(1).astype(np.float32), logits.shape[1])


@pytest.mark.parametrize("classes", [2, 5, 6, 20])
def test_as_scikit_learn(classes: int) -> None:
    rng = np.random.default_rng(classes)
    labels = np.concatenate([np.arange(classes), rng.integers(0, classes // 2, 200)])  # unbalanced, every class present
    logits = rng.normal(size=(len(labels), classes)) + 1.5 * np.eye(classes)[labels]
    found = scores(labels, logits)
    assert found.acc1 == pytest.approx(100 * accuracy_score(labels, logits.argmax(1)))
    assert found.mean_per_class == pytest.approx(100 * balanced_accuracy_score(labels, logits.argmax(1)))
    assert found.mean_per_class != pytest.approx(found.acc1)
    if classes > 5:
        assert found.acc5 == pytest.approx(100 * top_k_accuracy_score(labels, logits, k=5))
        assert found.correct5 == round(found.acc5 * found.total / 100)
    else:
        assert found.acc5 is None
        assert found.correct5 == found.total
    assert (found.total, found.correct) == (len(labels), (logits.argmax(1) == labels).sum())


def test_classes_without_an_image_do_not_count() -> None:
    labels = np.array([0, 0, 0, 2])
    found = scores(labels, np.eye(3)[[0, 0, 1, 2]])
    assert found.mean_per_class == pytest.approx(100 * (2 / 3 + 1) / 2)
