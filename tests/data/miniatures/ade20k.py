"""ADE20K in the layout of the Scene Parsing Challenge 2016."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from miniatures import encoded, picture, put

PARTS = {"train": ("training", "ADE_train"), "test": ("validation", "ADE_val")}


def mask(split: str, number: int, height: int = 16, width: int = 20) -> NDArray[np.uint8]:
    """0 (other objects) in the first rows, then value 1 + number, on the right 150."""
    values = np.full((height, width), 1 + number, np.uint8)
    values[:3] = 0
    values[:, -4:] = 150
    return values


def write(folder: Path, **counts: int) -> None:
    """``counts`` images of each split, ``ADEChallengeData2016`` as its archive unpacks."""
    base = folder / "ADEChallengeData2016"
    for split, count in (counts or {"train": 4, "test": 3}).items():
        part, prefix = PARTS[split]
        for number in range(count):
            name = f"{prefix}_{number + 1:08d}"
            put(base / "images" / part / f"{name}.jpg", encoded(picture(1, split, number)))
            put(base / "annotations" / part / f"{name}.png", encoded(mask(split, number), "png"))
    rows = ["Idx\tRatio\tTrain\tVal\tName", *(f"{idx}\t0.1\t10\t1\tkind {idx}, other {idx}  " for idx in range(1, 151))]
    put(base / "objectInfo150.txt", "\n".join(rows) + "\n")
