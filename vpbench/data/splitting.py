"""Seeded splits that keep the share of every class."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]


def stratified_order(labels: NDArray[np.int64], seed: int) -> Indices:
    """A shuffled order of all images, any beginning of which has every class in about its share.

    Cutting it gives stratified splits of exact sizes.
    """
    rank, count = _ranks(labels, seed)
    return np.lexsort((labels, (rank + 0.5) / count))


def hold_out(labels: NDArray[np.int64], share: float, seed: int) -> tuple[Indices, Indices]:
    """Indices that stay and indices held out, both ascending.

    Of every class ``share`` of its images is held out, rounded, but at least one; and one image at least stays,
    so that a class with a single image keeps it.
    """
    rank, count = _ranks(labels, seed)
    held = rank < np.minimum(np.maximum(np.rint(share * count), 1), count - 1)
    return np.flatnonzero(~held), np.flatnonzero(held)


def hold_out_exactly(labels: NDArray[np.int64], count: int, seed: int) -> tuple[Indices, Indices]:
    """Like :func:`hold_out`, but ``count`` images in all, every class in about its share."""
    order = stratified_order(labels, seed)
    return np.sort(order[count:]), np.sort(order[:count])


def few_per_class(labels: NDArray[np.int64], shots: int, seed: int) -> Indices:
    """``shots`` images of every class (all of a class that has fewer), ascending."""
    rank, _ = _ranks(labels, seed)
    return np.flatnonzero(rank < shots)


def _ranks(labels: NDArray[np.int64], seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Each image's place in a shuffle of its class, and the size of its class."""
    # RandomState's numbers are frozen for good, those of numpy's newer generators are not.
    shuffled = np.random.RandomState(seed).permutation(len(labels))
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    _, inverse, counts = np.unique(labels, return_inverse=True, return_counts=True)
    starts = np.cumsum(counts) - counts
    rank = np.empty(len(labels), np.int64)
    rank[by_class] = np.arange(len(labels)) - starts[inverse[by_class]]
    return rank, counts[inverse]
