"""Examples to convert."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from vpbench.data.conversion.vtab_layout import Example, png

# The layout


def examples(counts: tuple[int, int, int] = (8, 4, 6), label: int = 1) -> Iterator[Example]:
    for split, count in zip(("train", "val", "test"), counts):
        for number in range(count):
            content = png(np.full((9, 7), 20 * number, np.uint8))
            yield Example(split, content, ".png", label if number else 0, f"image {number} of a test")
