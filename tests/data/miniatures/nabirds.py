"""NABirds: CUB's text files with image ids that are UUIDs, and class ids of a hierarchy."""

from __future__ import annotations

from pathlib import Path
from uuid import UUID

from . import Content, put
from .json_lists import Lists, write_lists

# Ids 0 and 22 are inner nodes of the hierarchy, without images.
CLASSES = {
    0: "Birds",
    22: "Ducks, Geese, and Swans",
    627: "Common Eider (Immature/Eclipse male)",
    817: "Oak Titmouse",
    975: "Dark-eyed Junco (Gray-headed)",
}
LEAVES = (627, 817, 975)


def write(folder: Path, content: Content) -> None:
    """The official layout."""
    images, labels, splits = [], [], []
    for split, members in content.items():
        for label, data in members:
            name = UUID(int=(len(images) + 1) * 2**90 + 7)
            path = f"{LEAVES[label]:04d}/{name.hex}.jpg"
            put(folder / "images" / path, data)
            images.append(f"{name} {path}\n")
            labels.append(f"{name} {LEAVES[label]}\n")
            splits.append(f"{name} {int(split == 'train')}\n")
    put(folder / "images.txt", "".join(images))
    put(folder / "image_class_labels.txt", "".join(labels))
    put(folder / "train_test_split.txt", "".join(splits))
    write_classes(folder)


def write_classes(folder: Path) -> None:
    put(folder / "classes.txt", "".join(f"{number} {name}\n" for number, name in CLASSES.items()))


def write_json(folder: Path, content: Content) -> None:
    """VPT's lists, ids as in the hierarchy."""
    lists: Lists = {split: {} for split in content}
    for split, members in content.items():
        for number, (label, data) in enumerate(members):
            path = f"{LEAVES[label]:04d}/{split}{number:04d}.jpg"
            put(folder / "images" / path, data)
            lists[split][path] = LEAVES[label]
    write_lists(folder, lists)
    write_classes(folder)
