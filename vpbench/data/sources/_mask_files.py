"""Published data sets whose images and masks lie in files; shared by their readers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from vpbench.core.errors import DataError
from vpbench.core.names import counted
from vpbench.data.masks import MaskedSplit, MaskValues
from vpbench.data.raw import SPLITS, RawData

Pairs = Sequence[tuple[str, str]]
"""Paths of an image and of its mask."""


class MaskFileSplit(MaskedSplit):
    """Images and masks in files below ``folder``. Both are identified by path and size, so that planning reads none."""

    def __init__(self, folder: Path, pairs: Pairs, values: MaskValues) -> None:
        super().__init__(np.zeros(len(pairs), np.int64))
        self._folder, self._pairs, self.values = folder, pairs, values
        self._sizes = _sizes(folder, pairs)

    def name(self, index: int) -> str:
        return str(self._folder / self._pairs[index][0])

    def mask_name(self, index: int) -> str:
        return str(self._folder / self._pairs[index][1])

    def short_name(self, index: int) -> str:
        return self._pairs[index][0]

    def identity(self, index: int) -> str:
        return f"{self._pairs[index][0]} {self._sizes[index][0]}"

    def mask_identity(self, index: int) -> str:
        return f"{self._pairs[index][1]} {self._sizes[index][1]}"

    def content(self, index: int) -> bytes:
        return _read(self._folder / self._pairs[index][0])

    def mask_content(self, index: int) -> bytes:
        return _read(self._folder / self._pairs[index][1])


def from_pairs(folder: Path, lists: Mapping[str, Pairs], class_names: Sequence[str], values: MaskValues) -> RawData:
    """Builds a data set from lists of images and masks; no list of validation images is an empty split.

    Raises:
        DataError: for an empty list, or a file that does not exist.
    """
    for split in ("train", "test"):
        if not lists.get(split):
            raise DataError(f"{folder}: the {split} list is empty; get the data set again.")
    return RawData.of(class_names, {split: MaskFileSplit(folder, lists.get(split, ()), values) for split in SPLITS})


def _sizes(folder: Path, pairs: Pairs) -> list[tuple[int, ...]]:
    """Bytes of each image and mask."""
    sizes: list[tuple[int, ...]] = []
    lost: list[str] = []
    for pair in pairs:
        try:
            sizes.append(tuple((folder / path).stat().st_size for path in pair))
        except FileNotFoundError as error:
            lost.append(str(error.filename))
    if lost:
        more = f" (and {counted(len(lost) - 1, 'more file')})" if len(lost) > 1 else ""
        raise DataError(f"{lost[0]} is missing{more}; the copy of the data set is incomplete.")
    return sizes


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise DataError(f"{file} cannot be read ({error.strerror}); get the data set again.") from error
