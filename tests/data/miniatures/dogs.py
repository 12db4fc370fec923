"""Stanford Dogs: Images/, train_list.mat and test_list.mat."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy.io import savemat

from . import Content, put
from .json_lists import Lists, write_lists

FOLDERS = ("n02085620-Chihuahua", "n02085782-Japanese_spaniel", "n02088364-black-and-tan_coonhound")


def write(folder: Path, content: Content, lists: str = "") -> None:
    """The official layout; ``lists`` is the folder of the .mat files."""
    number = 0
    for split, members in content.items():
        files, labels = [], []
        for label, data in members:
            number += 1
            files.append(f"{FOLDERS[label]}/{FOLDERS[label].split('-')[0]}_{number}.jpg")
            labels.append(label + 1)
            put(folder / "Images" / files[-1], data)
        (folder / lists).mkdir(exist_ok=True)
        write_mat(folder / lists / f"{split}_list.mat", files, labels)


def write_mat(file: Path, files: list[str], labels: list[int]) -> None:
    """Cells of shape (n, 1) with a text each, and labels from 1 as doubles, (n, 1)."""
    cells = np.empty((len(files), 1), object)
    cells[:, 0] = files
    bare = np.empty((len(files), 1), object)
    bare[:, 0] = [name.removesuffix(".jpg") for name in files]
    savemat(file, {"file_list": cells, "annotation_list": bare, "labels": np.array(labels, np.float64)[:, None]})


def write_json(folder: Path, content: Content) -> None:
    """VPT's lists; paths are below Images/."""
    lists: Lists = {split: {} for split in content}
    for split, members in content.items():
        for number, (label, data) in enumerate(members):
            path = f"{FOLDERS[label]}/{split}_{number}.jpg"
            put(folder / "Images" / path, data)
            lists[split][path] = label
    write_lists(folder, lists)
