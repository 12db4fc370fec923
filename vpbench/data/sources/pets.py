"""Oxford-IIIT Pets: 37 breeds of cats and dogs, in the official lists of training and test images."""

from __future__ import annotations

from pathlib import Path

from vpbench.core.errors import DataError
from vpbench.data.raw import RawData
from vpbench.data.sources._listed import Key, from_lists, nested, read_lines

CLASSES = 37


def read(folder: Path) -> RawData:
    """The splits of ``annotations/trainval.txt`` and ``annotations/test.txt``, whose lines are ``IMAGE CLASS SPECIES BREED`` with
    classes from 1; images lie in ``images/IMAGE.jpg``, and a class is called as its images are, without their numbers.

    Args:
        folder: with these folders, or with one around them, as torchvision has it (``oxford-iiit-pet``).

    Raises:
        DataError: for files that are missing or inconsistent.
    """
    base = nested(Path(folder), "oxford-iiit-pet")
    lists = {split: _members(base / "annotations" / f"{name}.txt") for split, name in (("train", "trainval"), ("test", "test"))}
    names = {key: _breed(path) for path, key in lists["train"]}
    return from_lists(base, lists, lambda key: names[key])


def _members(file: Path) -> list[tuple[str, Key]]:
    members: list[tuple[str, Key]] = []
    for line in read_lines(file):
        if line.startswith("#"):
            continue
        words = line.split()
        if len(words) != 4 or not words[1].isdecimal():
            raise DataError(f"{file}: '{line}' is not IMAGE CLASS SPECIES BREED; get the data set again.")
        if not 1 <= int(words[1]) <= CLASSES:
            raise DataError(f"{file}: {words[0]} has class {words[1]}; it must be 1 to {CLASSES}.")
        members.append((f"images/{words[0]}.jpg", int(words[1])))
    return members


def _breed(path: str) -> str:
    """``images/yorkshire_terrier_153.jpg`` -> ``yorkshire terrier``."""
    return Path(path).stem.rpartition("_")[0].replace("_", " ")
