"""VTAB-1k as image files with lists, the layout that published code uses.

A task is a folder with ``images/`` and the lists ``train800.txt``, ``val200.txt``, ``test.txt`` and ``train800val200.txt``;
a line is an image's path below the folder, a blank, and its class number. ``train800val200.txt`` has the files of the first two
lists, or copies of them in ``images/train800val200/``; it and ``test.txt`` suffice for all but a search.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from vpbench.core.errors import DataError
from vpbench.data.raw import RawData
from vpbench.data.sources._listed import Key, from_lists, read_lines

LISTS = {"train": "train800.txt", "val": "val200.txt", "test": "test.txt"}
BOTH = "train800val200.txt"
PROVENANCE = "provenance.json"

Lines = list[tuple[str, Key]]


def read(folder: Path, classes: int = 0, names: Sequence[str] = ()) -> RawData:
    """One task of VTAB-1k.

    Args:
        folder: with the lists; with ``train800val200.txt`` alone for training, ``RawData.val_in_train`` is set.
        classes: number of classes, which are then called "0", "1", ...; or
        names: name of each class.

    Raises:
        DataError: for a list that is missing, invalid or empty, an image that is listed twice or missing, a label out of
            range, or a ``train800val200.txt`` that is not the union of the other two.
    """
    joined = (folder / BOTH).is_file() and not any((folder / LISTS[split]).exists() for split in ("train", "val"))
    files = {"train": BOTH, "test": LISTS["test"]} if joined else LISTS
    lists = {split: _members(folder / file) for split, file in files.items()}
    raw = from_lists(folder, lists, names=list(names) or [str(number) for number in range(classes)])
    training = [*lists["train"], *lists.get("val", ())]
    notes = [*([] if joined else _other_copies(folder, training)), *_absent(raw, training), *_converter_note(folder)]
    if joined:
        notes.insert(0, f"{folder} lacks {LISTS['train']} and {LISTS['val']}, without which no search is possible.")
    return dataclasses.replace(raw, note=" ".join([*notes, raw.note]).strip(), val_in_train=joined)


def _members(file: Path) -> Lines:
    """Paths and labels of a list. A path may contain blanks."""
    found: Lines = []
    for number, line in enumerate(read_lines(file), start=1):
        parts = line.rsplit(maxsplit=1)
        if len(parts) < 2 or not re.fullmatch("-?[0-9]+", parts[1]):
            raise DataError(f"{file}: line {number} is '{line.strip()}'; it must be an image's path, a blank and a class number.")
        path, label = parts[0].strip().removeprefix("./"), int(parts[1])
        if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts:
            raise DataError(f"{file}: line {number} names {path}, which is not below {file.parent}; correct the list.")
        found.append((path, label))
    if not found:
        raise DataError(f"{file} names no image; get the data set again.")
    repeated = [path for path, count in Counter(path for path, _ in found).items() if count > 1]
    if repeated:
        more = f" (and {len(repeated) - 1} more)" if len(repeated) > 1 else ""
        raise DataError(f"{file}: {repeated[0]} is listed twice{more}; get the data set again.")
    return found


def _other_copies(folder: Path, training: Lines) -> list[str]:
    """Checks the list of all training images, which is not used, but reveals a mixed-up copy; returns a note if files differ."""
    if not (folder / BOTH).is_file():
        return []
    both = _members(folder / BOTH)
    problem = f"{folder / BOTH} is not {LISTS['train']} and {LISTS['val']} together"
    if {path for path, _ in both} & {path for path, _ in training}:
        if odd := sorted(set(both) ^ set(training), key=str):
            more = f" (and {len(odd) - 1} more)" if len(odd) > 1 else ""
            raise DataError(f"{problem}: they differ in '{odd[0][0]} {odd[0][1]}'{more}; get the data set again.")
        return []
    counts, wanted = Counter(label for _, label in both), Counter(label for _, label in training)
    if odd_classes := sorted((counts - wanted) + (wanted - counts), key=str):
        label = odd_classes[0]
        raise DataError(
            f"{problem}: it has {counts[label]} images of class {label}, those have {wanted[label]}; get the data set again."
        )
    if _sizes(folder, both) != _sizes(folder, training):
        return [f"{BOTH} names other files than {LISTS['train']} and {LISTS['val']}; it is not used."]
    return []


def _sizes(folder: Path, members: Lines) -> Counter[tuple[Key, int | None]]:
    """How often each (class, bytes) occurs; a missing file has no size."""
    places = [(label, folder / path) for path, label in members]
    return Counter((label, place.stat().st_size if place.is_file() else None) for label, place in places)


def _absent(raw: RawData, training: Lines) -> list[str]:
    """A note on classes without training images."""
    absent = sorted(set(range(len(raw.class_names))) - {int(label) for _, label in training})
    if not absent:
        return []
    more = f" (and {len(absent) - 1} more)" if len(absent) > 1 else ""
    return [f"Not among the {len(training)} training images: class '{raw.class_names[absent[0]]}'{more}."]


def _converter_note(folder: Path) -> list[str]:
    """The note of the converter that wrote this folder."""
    file = folder / PROVENANCE
    if not file.is_file():
        return []
    try:
        provenance = json.loads(file.read_text(encoding="utf-8"))
        return [provenance["note"]] if provenance.get("note") else []
    except (ValueError, AttributeError) as error:
        raise DataError(f"{file} is not what a converter writes; remove it or convert again.") from error
