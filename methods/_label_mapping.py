"""Mapping the labels of a backbone's own classifier to those of a task, by how often it predicts them: ILM-VP, AutoVP."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from vpbench.core.errors import UnsupportedError
from vpbench.interface import BackboneShape, Session, torch

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray
    from torch import Tensor


def check_sources(sources: int, classes: int, per_class: int) -> None:
    """
    Raises:
        UnsupportedError: when the classifier has too few classes for a mapping that uses each at most once.
    """
    if sources < classes * per_class:
        raise UnsupportedError(
            f"this method gives each of {classes} classes {per_class} of the backbone's own, and its classifier has {sources}."
        )


def frequency_mapping(
    predicted: NDArray[np.int64], labels: NDArray[np.int64], sources: int, classes: int, per_class: int
) -> NDArray[np.int64]:
    """The classifier's classes for each class, (classes, per_class), in the order in which they were assigned.

    The pair of a source class and a class that is counted most often is assigned first; each source class serves once
    (OPTML-Group/ILM-VP algorithms/flm_calculation.py). Among equal counts, the smaller source class goes first.

    Args:
        predicted: the classifier's predictions, (n,).
        labels: of the same images, (n,).
        sources: number of the classifier's classes.
    """
    pairs, counts = np.unique(predicted * classes + labels, return_counts=True)
    assigned: list[list[int]] = [[] for _ in range(classes)]
    is_free = np.ones(sources, bool)
    for pair in pairs[np.lexsort((pairs, -counts))]:
        source, label = divmod(int(pair), classes)
        if is_free[source] and len(assigned[label]) < per_class:
            assigned[label].append(source)
            is_free[source] = False
    rest = iter(np.flatnonzero(is_free))  # pairs that never occur, in order
    for chosen in assigned:
        chosen += [int(next(rest)) for _ in range(per_class - len(chosen))]
    return np.array(assigned, np.int64)


class MapsLabels:
    """Part of a method that reads the classifier's logits through a mapping, kept in the buffer ``own.mapping`` (classes,
    per_class)."""

    own: Any
    shape: BackboneShape
    _predictions: list[Tensor] | None = None

    @classmethod
    def needs_classification(cls, config: Mapping[str, Any]) -> str:
        """See :meth:`vpbench.interface.Method.needs_classification`."""
        return "maps the classes of a classifier of whole images, in place of a head"

    @classmethod
    def needs_source_classifier(cls, config: Mapping[str, Any]) -> bool:
        """Always."""
        return True

    def check_classifier(self) -> None:
        """Raises UnsupportedError where the backbone was loaded without its classifier."""
        if not self.shape.source_classes:
            raise UnsupportedError("this method maps the labels of the backbone's own classifier, and it was loaded without one.")

    def build_mapping(self, sources: int, classes: int, per_class: int) -> None:
        """Creates the mapping, at first the classifier's classes in their order.

        Raises:
            UnsupportedError: when it has too few.
        """
        check_sources(sources, classes, per_class)
        self._sources = sources
        self.own.register_buffer("mapping", torch.arange(classes * per_class).reshape(classes, per_class))

    def mapped(self, logits: Tensor) -> Tensor:
        """(B, sources) to (B, classes): the mean over the classifier's classes that a class has."""
        if self._predictions is not None:
            self._predictions.append(logits.argmax(-1))
        chosen = logits[:, self.own.mapping]
        return chosen[:, :, 0] if chosen.shape[2] == 1 else chosen.mean(2)

    def map_randomly(self) -> None:
        """Other classes of the classifier, at random."""
        mapping: Tensor = self.own.mapping
        mapping.copy_(torch.randperm(self._sources)[: mapping.numel()].reshape(mapping.shape))

    def map_by_frequency(self, session: Session) -> None:
        """The mapping from the classifier's predictions of all training images, with the prompt as it is now."""
        labels: list[Tensor] = []
        predicted: list[Tensor] = []
        self._predictions = predicted
        try:
            with torch.no_grad():
                for images, truth in session.training_batches():
                    session.logits(images)
                    labels.append(truth)
        finally:
            self._predictions = None
        classes, per_class = self.own.mapping.shape
        of_images, truths = (torch.cat(each).cpu().numpy() for each in (predicted, labels))
        found = frequency_mapping(of_images, truths, self._sources, classes, per_class)
        self.own.mapping.copy_(torch.from_numpy(found))
