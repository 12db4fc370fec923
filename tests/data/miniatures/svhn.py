"""SVHN's cropped digits: train_32x32.mat and test_32x32.mat."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy.io import savemat

from . import picture


def write(folder: Path, classes: int = 3, **counts: int) -> None:
    """``counts`` images of digits 0 ... ``classes`` - 1 for each split; the digit 0 has label 10."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, count in counts.items():
        order = [(number, label) for number in range(count) for label in range(classes)]
        images = np.stack([picture(label, split, number, (32, 32)) for number, label in order], axis=-1)
        write_mat(folder / f"{split}_32x32.mat", images, [label or 10 for _, label in order])


def write_mat(file: Path, images: np.ndarray, labels: list[int]) -> None:  # type: ignore[type-arg]
    """``X`` uint8 of shape (32, 32, 3, n), ``y`` uint8 of shape (n, 1)."""
    savemat(file, {"X": images, "y": np.array(labels, np.uint8)[:, None]}, do_compression=True)
