"""Seeded stratified splits."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]


def stratified_order(labels: NDArray[np.int64], seed: int) -> Indices:
    """A shuffled order of all images, every prefix of which is stratified: cut it for stratified splits of exact sizes."""
    rank, count = _ranks(labels, seed)
    return np.lexsort((labels, (rank + 0.5) / count))


def hold_out(labels: NDArray[np.int64], share: float, seed: int) -> tuple[Indices, Indices]:
    """Indices kept and indices held out, both ascending.

    Of every class the fraction ``share`` is held out, rounded, at least one image; and at least one is kept, so that a class
    with a single image keeps it.
    """
    rank, count = _ranks(labels, seed)
    held_out = rank < np.minimum(np.maximum(np.rint(share * count), 1), count - 1)
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)


def hold_out_exactly(labels: NDArray[np.int64], count: int, seed: int) -> tuple[Indices, Indices]:
    """Like :func:`hold_out`, with ``count`` images held out in total."""
    order = stratified_order(labels, seed)
    return np.sort(order[count:]), np.sort(order[:count])


def few_per_class(labels: NDArray[np.int64], shots: int, seed: int) -> Indices:
    """``shots`` images of every class (all of a class that has fewer), ascending."""
    rank, _ = _ranks(labels, seed)
    return np.flatnonzero(rank < shots)


def _ranks(labels: NDArray[np.int64], seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Each image's rank in a shuffle of its class, and the size of its class."""
    # The stream of RandomState is frozen; those of numpy's newer generators may change between versions.
    shuffled = np.random.RandomState(seed).permutation(len(labels))
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    _, inverse, counts = np.unique(labels, return_inverse=True, return_counts=True)
    starts = np.cumsum(counts) - counts
    rank = np.empty(len(labels), np.int64)
    rank[by_class] = np.arange(len(labels)) - starts[inverse[by_class]]
    return rank, counts[inverse]
