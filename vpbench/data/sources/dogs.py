"""Stanford Dogs: 120 breeds, with VPT's JSON lists or the official .mat lists."""

from __future__ import annotations

from pathlib import Path

from vpbench.core.errors import DataError
from vpbench.data.raw import RawData
from vpbench.data.sources._json_lists import json_lists, names_of_folders
from vpbench.data.sources._listed import Key, Members, from_lists
from vpbench.data.sources._mat import read_mat, texts, whole_numbers

CLASSES = 120


def read(folder: Path) -> RawData:
    """The splits of ``train.json``, ``val.json`` and ``test.json`` if they exist, else ``train_list.mat`` and
    ``test_list.mat`` (in the folder itself or in ``lists/``).

    Images lie in ``Images/n02085620-Chihuahua/``; classes are called after their folders.

    Raises:
        DataError: for files that are missing or inconsistent.
    """
    base = Path(folder)
    lists: dict[str, Members] = {**(json_lists(base, base, ("Images/", "")) or _official(base))}
    return from_lists(base, lists, names_of_folders(lists, _breed))


def _official(base: Path) -> dict[str, list[tuple[str, Key]]]:
    home = base if (base / "train_list.mat").is_file() else base / "lists"
    home = home if home.is_dir() else base
    return {split: _members(home / f"{split}_list.mat") for split in ("train", "test")}


def _members(file: Path) -> list[tuple[str, Key]]:
    cells, numbers = read_mat(file, "file_list", "labels")
    paths, labels = texts(cells, file), whole_numbers(numbers, file)
    if len(paths) != len(labels):
        raise DataError(f"{file} has {len(paths)} images and {len(labels)} labels; get the data set again.")
    for path, label in zip(paths, labels):
        if not 1 <= label <= CLASSES:
            raise DataError(f"{file}: {path} has label {label}; it must be 1 to {CLASSES}.")
    return [(f"Images/{path}", label) for path, label in zip(paths, labels)]


def _breed(folder: str) -> str:
    """``n02085620-Chihuahua`` -> ``Chihuahua``; the breed itself may have a dash."""
    return folder.partition("-")[2].replace("_", " ") or folder
