"""Images of different sizes in one array."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]


class RaggedImages:
    """Images of different sizes in one flat buffer; item ``i`` is uint8 of shape (height, width, 3), of masks (height, width)."""

    def __init__(self, flat: Pixels, sizes: NDArray[np.int64], depth: tuple[int, ...] = (3,)) -> None:
        self._flat, self._sizes, self._depth = flat, sizes, depth
        self._starts = np.concatenate([[0], np.cumsum(sizes.prod(axis=1) * math.prod(depth))])

    def __len__(self) -> int:
        return len(self._sizes)

    def __getitem__(self, index: int) -> Pixels:
        height, width = self._sizes[index]
        return self._flat[self._starts[index] : self._starts[index + 1]].reshape(height, width, *self._depth)
