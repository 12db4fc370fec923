"""Street View House Numbers, cropped digits (format 2)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vpbench.core.errors import DataError
from vpbench.data.raw import Labels, RawData
from vpbench.data.sources._listed import from_arrays
from vpbench.data.sources._mat import read_mat, whole_numbers


def read(folder: Path) -> RawData:
    """``train_32x32.mat`` and ``test_32x32.mat``; the 531,131 extra images are not used.

    Kept in memory as uint8, 3 KB per image.

    Raises:
        DataError: for files that are missing, damaged or invalid.
    """
    parts = {split: _part(Path(folder) / f"{split}_32x32.mat") for split in ("train", "test")}
    return from_arrays(Path(folder), parts, [str(digit) for digit in range(10)])


def _part(file: Path) -> tuple[NDArray[np.uint8], Labels, str]:
    """``X`` is (32, 32, 3, n); ``y`` has 1 to 10, with 10 for the digit 0."""
    images, numbers = read_mat(file, "X", "y")
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[:3] != (32, 32, 3):
        raise DataError(f"{file}: X is {images.dtype} {images.shape}; it must be uint8 (32, 32, 3, n).")
    labels = np.array(whole_numbers(numbers, file), np.int64)
    _check(labels, file)
    return images.transpose(3, 0, 1, 2), labels % 10, file.name


def _check(labels: NDArray[Any], file: Path) -> None:
    strange = np.flatnonzero((labels < 1) | (labels > 10))
    if len(strange):
        raise DataError(f"{file}: image {strange[0]} has label {labels[strange[0]]}; it must be 1 to 10 (10 is the digit 0).")
