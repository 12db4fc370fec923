"""Oxford Flowers 102: jpg/image_00001.jpg, imagelabels.mat and setid.mat."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy.io import savemat

from . import Content, put
from .json_lists import Lists, write_lists


def write(folder: Path, content: Content) -> None:
    """The official layout: labels from 1 for every image, and the numbers of each split's images, all of shape (1, n)."""
    labels: list[int] = []
    sets: dict[str, list[int]] = {"trnid": [], "valid": [], "tstid": []}
    for split, key in zip(("train", "val", "test"), sets):
        for label, data in content[split]:
            labels.append(label + 1)
            sets[key].append(len(labels))
            put(folder / "jpg" / f"image_{len(labels):05d}.jpg", data)
    write_mats(folder, labels, sets)


def write_mats(folder: Path, labels: list[int], sets: dict[str, list[int]]) -> None:
    savemat(folder / "imagelabels.mat", {"labels": np.array([labels], np.uint8)})
    savemat(folder / "setid.mat", {key: np.array([numbers], np.uint16) for key, numbers in sets.items()})


def write_json(folder: Path, content: Content, first: int) -> None:
    """VPT's lists; ``first`` is the id of the first class."""
    lists: Lists = {split: {} for split in content}
    for split, members in content.items():
        for label, data in members:
            path = f"jpg/image_{sum(map(len, lists.values())) + 1:05d}.jpg"
            put(folder / path, data)
            lists[split][path] = label + first
    write_lists(folder, lists)
