"""Describable Textures: 47 words for textures, in ten official partitions."""

from __future__ import annotations

from pathlib import Path

from vpbench.data.raw import SPLITS, RawData
from vpbench.data.sources._listed import from_lists, members_by_folder, nested


def read(folder: Path, partition: int = 1) -> RawData:
    """The splits of ``labels/train1.txt``, ``val1.txt`` and ``test1.txt``; images lie in ``images/banded/``.

    Args:
        folder: the data set's folder, or one with a folder ``dtd`` in it.
        partition: 1 to 10.

    Raises:
        DataError: for files that are missing or inconsistent.
    """
    base = nested(Path(folder), "dtd")
    return from_lists(base, {split: members_by_folder(base / "labels" / f"{split}{partition}.txt", "images") for split in SPLITS})
