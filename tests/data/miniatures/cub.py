"""CUB-200-2011: images.txt, image_class_labels.txt, train_test_split.txt and classes.txt beside images/."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from . import Content, put
from .json_lists import Lists, write_lists

NAMES = ("Black_footed_Albatross", "Laysan_Albatross", "Sooty_Albatross")


def write(folder: Path, content: Content, names: Sequence[str] = NAMES) -> None:
    """The official layout; classes are numbered from 1, images over all splits."""
    images, labels, splits = [], [], []
    for split, members in content.items():
        for label, data in members:
            number = len(images) + 1
            path = f"{label + 1:03d}.{names[label]}/{names[label]}_{number:04d}_{796000 + number}.jpg"
            put(folder / "images" / path, data)
            images.append(f"{number} {path}\n")
            labels.append(f"{number} {label + 1}\n")
            splits.append(f"{number} {int(split == 'train')}\n")
    put(folder / "images.txt", "".join(images))
    put(folder / "image_class_labels.txt", "".join(labels))
    put(folder / "train_test_split.txt", "".join(splits))
    put(folder / "classes.txt", "".join(f"{number + 1} {number + 1:03d}.{name}\n" for number, name in enumerate(names)))


def write_json(folder: Path, content: Content, below: str = "") -> None:
    """VPT's lists, ids as "001"; ``below`` begins every path."""
    lists: Lists = {split: {} for split in content}
    for split, members in content.items():
        for number, (label, data) in enumerate(members):
            path = f"{label + 1:03d}.{NAMES[label]}/{NAMES[label]}_{split}_{number:04d}.jpg"
            put(folder / "images" / path, data)
            lists[split][below + path] = f"{label + 1:03d}"
    write_lists(folder, lists)
