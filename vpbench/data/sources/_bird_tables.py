"""The text files of CUB-200-2011 and NABirds: one line per image or class, with its id and a value."""

from __future__ import annotations

from pathlib import Path

from vpbench.core.errors import DataError
from vpbench.data.sources._listed import Key, read_lines


def bird_lists(base: Path) -> tuple[dict[str, list[tuple[str, Key]]], dict[int, str]]:
    """Train and test lists, with paths below ``base`` and class ids as numbers, and the name of every class id.

    ``images.txt`` has paths below ``images/``, ``train_test_split.txt`` 1 for training.

    Raises:
        DataError: when a file is missing, not text, inconsistent with the others, or has an invalid value.
    """
    names = _table(base / "classes.txt")
    if odd := next((key for key in names if not key.isdecimal()), None):
        raise DataError(f"{base / 'classes.txt'}: class id '{odd}' is no number; get the data set again.")
    images = _table(base / "images.txt")
    labels = _table(base / "image_class_labels.txt")
    training = _table(base / "train_test_split.txt")
    lists: dict[str, list[tuple[str, Key]]] = {"train": [], "test": []}
    for image, path in images.items():
        label = _value(labels, image, base / "image_class_labels.txt")
        if label not in names:
            raise DataError(f"{base / 'image_class_labels.txt'}: image {image} has class {label}, which classes.txt lacks.")
        flag = _value(training, image, base / "train_test_split.txt")
        if flag not in ("0", "1"):
            raise DataError(f"{base / 'train_test_split.txt'}: image {image} has '{flag}'; it must be 1 (train) or 0 (test).")
        lists["train" if flag == "1" else "test"].append((f"images/{path}", int(label)))
    return lists, {int(key): name for key, name in names.items()}


def class_names(base: Path) -> dict[int, str]:
    """Names of class ids in ``classes.txt``; empty if the file does not exist."""
    if not (base / "classes.txt").is_file():
        return {}
    return {int(key): name for key, name in _table(base / "classes.txt").items() if key.isdecimal()}


def _table(file: Path) -> dict[str, str]:
    table: dict[str, str] = {}
    for line in read_lines(file):
        key, _, value = line.strip().partition(" ")
        if not value:
            raise DataError(f"{file}: '{line.strip()}' is not an id and a value; get the data set again.")
        if key in table:
            raise DataError(f"{file}: id {key} is there twice; get the data set again.")
        table[key] = value.strip()
    return table


def _value(table: dict[str, str], image: str, file: Path) -> str:
    if image not in table:
        raise DataError(f"{file} has no line for image {image} of images.txt; get the data set again.")
    return table[image]
