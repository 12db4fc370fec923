"""Seeded split lists for data whose original files have another order than in TFDS."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

SEED = 0
NOTE = "Own seeded split of VTAB-1k's sizes, not TFDS's order: not comparable to published VTAB-1k numbers to the last digit."


def drawn(size: int, counts: dict[str, int]) -> dict[str, NDArray[np.int64]]:
    """Disjoint indices below ``size`` for each split, ascending, so that a file can be read sequentially.

    Not stratified: two tasks on the same images get the same split.
    """
    # The stream of RandomState is frozen; those of numpy's newer generators may change between versions.
    order = np.random.RandomState(SEED).permutation(size)
    ends = np.cumsum(list(counts.values()))
    return {split: np.sort(order[end - counts[split] : end]) for split, end in zip(counts, ends)}
