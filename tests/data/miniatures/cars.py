"""Stanford Cars: devkit/, cars_train/ and cars_test/."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy.io import savemat

from . import Content, put
from .json_lists import Lists, write_lists

NAMES = ("AM General Hummer SUV 2000", "Acura RL Sedan 2012", "Acura TL Sedan 2012")
FIELDS = ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class", "fname")


def write(folder: Path, content: Content, labelled: str = "devkit") -> None:
    """The official layout; ``labelled`` is the folder of the test annotations with labels ("" for torchvision's place)."""
    files = {"train": "devkit/cars_train_annos.mat", "test": Path(labelled, "cars_test_annos_withlabels.mat")}
    for split, members in content.items():
        rows = [(f"{number + 1:05d}.jpg", label + 1) for number, (label, _) in enumerate(members)]
        for (name, _), (_, data) in zip(rows, members):
            put(folder / f"cars_{split}" / name, data)
        write_mat(folder / files[split], rows)
    names = np.empty((1, len(NAMES)), object)
    names[0] = NAMES
    savemat(folder / "devkit" / "cars_meta.mat", {"class_names": names})


def write_mat(file: Path, rows: list[tuple[str, int]]) -> None:
    """A struct array of shape (1, n) with a box, a class from 1 and a file name each."""
    annotations = np.empty((1, len(rows)), [(field, object) for field in FIELDS])
    for place, (name, label) in enumerate(rows):
        annotations[0, place] = (39, 116, 569, 375, label, name)
    file.parent.mkdir(parents=True, exist_ok=True)
    savemat(file, {"annotations": annotations})


def write_json(folder: Path, content: Content) -> None:
    """VPT's lists, without the official annotations."""
    lists: Lists = {split: {} for split in content}
    for split, members in content.items():
        for number, (label, data) in enumerate(members):
            path = f"cars_{'test' if split == 'test' else 'train'}/{split}{number:05d}.jpg"
            put(folder / path, data)
            lists[split][path] = label + 1
    write_lists(folder, lists)
