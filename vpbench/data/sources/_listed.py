"""Data sets from split lists, with images in files or in one array; shared by the readers of published data sets."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vpbench.core.errors import DataError
from vpbench.data.decoding import AS_LOADED
from vpbench.data.raw import SPLITS, Labels, RawData, RawSplit
from vpbench.spec.run_spec import Preprocess

Key = int | str
Members = Sequence[tuple[str, Key]]


class FileSplit(RawSplit):
    """Images in files below ``folder``. An image is identified by its path and size, so that planning reads none."""

    def __init__(self, folder: Path, files: Sequence[str], sizes: Sequence[int], labels: Labels) -> None:
        super().__init__(labels)
        self._folder, self._files, self._sizes = folder, files, sizes

    def name(self, index: int) -> str:
        return str(self._folder / self._files[index])

    def short_name(self, index: int) -> str:
        return self._files[index]

    def identity(self, index: int) -> str:
        return f"{self._files[index]} {self._sizes[index]}"

    def content(self, index: int) -> bytes:
        try:
            return (self._folder / self._files[index]).read_bytes()
        except OSError as error:
            raise DataError(f"{self.name(index)} cannot be read ({error.strerror}); get the data set again.") from error


class ArraySplit(RawSplit):
    """Images in an array of one file; ``rows`` are their indices.

    Args:
        array: uint8, (n, height, width) or (n, height, width, 3).
        file: the file's name, for lists and messages.
    """

    def __init__(self, array: NDArray[np.uint8], rows: NDArray[np.int64], labels: Labels, file: str) -> None:
        super().__init__(labels)
        self._array, self._rows, self._file = array, rows, file

    def name(self, index: int) -> str:
        return f"image {self._rows[index]} of {self._file}"

    def short_name(self, index: int) -> str:
        return f"{self._file}#{self._rows[index]}"

    def content(self, index: int) -> bytes:
        content: bytes = np.ascontiguousarray(self._array[self._rows[index]]).tobytes()
        return content

    def image(self, index: int, preprocess: Preprocess = AS_LOADED) -> Image.Image:
        return Image.fromarray(np.ascontiguousarray(self._array[self._rows[index]])).convert("RGB")


def from_lists(
    folder: Path,
    lists: Mapping[str, Members],
    class_name: Callable[[Key], str] = str,
    classes: int | None = None,
    names: Sequence[str] | None = None,
) -> RawData:
    """Builds a data set from split lists.

    Class ids 0 ... C-1 are assigned to the sorted classes of the training list (numbers as numbers) and used for all splits.
    VPT's released loader numbers each split separately, and gets 60 % of NABirds' validation labels wrong.

    Args:
        folder: parent of the paths in the lists.
        lists: for each split, paths below ``folder`` and classes as in the source; validation may be missing or empty.
        class_name: readable name of a class.
        classes: number of classes; labels must then be 0 ... classes - 1.
        names: names of classes 0, 1, ..., if label i is class id i; training may then lack a class (VTAB-1k has 800 images of
            SUN397's 397 classes). Replaces ``class_name`` and ``classes``.

    Raises:
        DataError: for a list that is empty, a class that training lacks, a label out of range, an image that is in two
            lists or does not exist. The first one is named, the others are counted.
    """
    found = {split: list(lists.get(split, ())) for split in SPLITS}
    for split in ("train", "test"):
        if not found[split]:
            raise DataError(f"{folder}: the {split} list is empty.")
    _check_range(folder, found, classes if names is None else len(names))
    _check_overlap(folder, found)
    if names is not None:
        return RawData.of(names, _file_splits(folder, found, {number: number for number in range(len(names))}))
    known = sorted({key for _, key in found["train"]})
    ids = {key: number for number, key in enumerate(known)}
    for split in ("val", "test"):
        if strange := [(path, key) for path, key in found[split] if key not in ids]:
            path, key = strange[0]
            raise DataError(
                f"{folder}: {path} of the {split} list has class '{key}', of which training has no image{_more(strange)}."
            )
    splits = _file_splits(folder, found, ids)
    absent = set(known) - {key for _, key in found["val"]} if found["val"] else set()
    notes = [f"Not in val: {', '.join(class_name(key) for key in sorted(absent)[:5])}{_more(list(absent), 5)}."] if absent else []
    return RawData.of([class_name(key) for key in known], splits, notes)


def _file_splits(folder: Path, lists: Mapping[str, Members], ids: Mapping[Key, int]) -> dict[str, RawSplit]:
    sizes = {split: _sizes(folder, members) for split, members in lists.items()}
    return {
        split: FileSplit(
            folder, [path for path, _ in members], sizes[split], np.array([ids[key] for _, key in members], np.int64)
        )
        for split, members in lists.items()
    }


def read_lines(file: Path) -> list[str]:
    """The lines of a text file that are not blank, without a byte-order mark.

    Raises:
        DataError: when it is missing or not text.
    """
    try:
        return [line for line in file.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except FileNotFoundError as error:
        raise DataError(f"{file} is missing; the copy of the data set is incomplete.") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{file} is not a text file; get the data set again.") from error


def nested(folder: Path, *names: str) -> Path:
    """The first of ``names`` that is a folder below ``folder``, else ``folder``: many archives have a top-level folder."""
    return next((folder / name for name in names if (folder / name).is_dir()), folder)


def members_by_folder(file: Path, below: str, suffix: str = "") -> list[tuple[str, Key]]:
    """The lines of a list of ``CLASS/IMAGE``, as paths ``below/CLASS/IMAGE`` and classes.

    Args:
        suffix: appended to each name.

    Raises:
        DataError: when the list is missing, not text, or has an invalid line.
    """
    members: list[tuple[str, Key]] = []
    for line in map(str.strip, read_lines(file)):
        if line.count("/") != 1:
            raise DataError(f"{file}: '{line}' is not CLASS/IMAGE; get the data set again.")
        members.append((f"{below}/{line}{suffix}", line.split("/")[0]))
    return members


def from_arrays(folder: Path, parts: Mapping[str, tuple[NDArray[np.uint8], Labels, str]], class_names: Sequence[str]) -> RawData:
    """Builds a data set from one array of images per split; validation is empty.

    Args:
        parts: for train and test the images, (n, height, width, 3), their class ids, (n,), and the file's name.
        class_names: names of class ids 0, 1, ...

    Raises:
        DataError: when the numbers of labels and images differ, a label is out of range, or training lacks a class of test.
    """
    for images, labels, file in parts.values():
        if not 0 < len(images) == len(labels):
            raise DataError(f"{folder / file} has {len(images)} images and {len(labels)} labels; get the data set again.")
        strange = np.flatnonzero((labels < 0) | (labels >= len(class_names)))
        if len(strange):
            raise DataError(
                f"{folder / file}: image {strange[0]} has class {labels[strange[0]]}; "
                f"it must be 0 to {len(class_names) - 1}{_more(strange.tolist())}."
            )
    if untrained := set(parts["test"][1].tolist()) - set(parts["train"][1].tolist()):
        raise DataError(f"{folder}: test has class '{class_names[min(untrained)]}', of which training has no image.")
    splits: dict[str, RawSplit] = {
        split: ArraySplit(images, np.arange(len(images)), labels, file) for split, (images, labels, file) in parts.items()
    }
    empty = ArraySplit(parts["train"][0], np.empty(0, np.int64), np.empty(0, np.int64), parts["train"][2])
    return RawData.of(class_names, {"train": splits["train"], "val": empty, "test": splits["test"]})


def _check_range(folder: Path, lists: Mapping[str, Members], classes: int | None) -> None:
    if classes is None:
        return
    for split, members in lists.items():
        for path, key in members:
            if not (isinstance(key, int) and 0 <= key < classes):
                raise DataError(f"{folder}: {path} of the {split} list has label {key}; it must be 0 to {classes - 1}.")


def _check_overlap(folder: Path, lists: Mapping[str, Members]) -> None:
    owner: dict[str, str] = {}
    twice = [
        (path, first, split)
        for split, members in lists.items()
        for path, _ in members
        if (first := owner.setdefault(path, split)) != split
    ]
    if twice:
        path, first, second = twice[0]
        raise DataError(f"{folder}: {path} is in the {first} list and in the {second} list{_more(twice)}.")


def _sizes(folder: Path, members: Members) -> list[int]:
    """Bytes of each file."""
    sizes, lost = [], []
    for path, _ in members:
        try:
            sizes.append((folder / path).stat().st_size)
        except FileNotFoundError:
            lost.append(path)
    if lost:
        raise DataError(f"{folder / lost[0]} is missing{_more(lost)}; the copy of the data set is incomplete.")
    return sizes


def _more(cases: Sequence[object], shown: int = 1) -> str:
    return f" (and {len(cases) - shown} more)" if len(cases) > shown else ""
