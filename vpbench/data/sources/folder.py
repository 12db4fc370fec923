"""A user's folder of images, laid out as torchvision's ImageFolder: ``PATH/{train,val,test}/CLASS/*`` or ``PATH/CLASS/*``."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from vpbench.core.errors import DataError
from vpbench.data.raw import Labels, RawData, RawSplit
from vpbench.data.sources._assemble import SPLIT_WORDS, assemble

# Those of torchvision's ImageFolder, and gif.
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp", ".gif")


class FolderSplit(RawSplit):
    """Images in files, read when needed."""

    def __init__(self, paths: list[Path], labels: Labels) -> None:
        super().__init__(labels)
        self._paths = paths

    def name(self, index: int) -> str:
        return str(self._paths[index])

    def content(self, index: int) -> bytes:
        try:
            return self._paths[index].read_bytes()
        except OSError as error:
            raise DataError(f"{self._paths[index]} cannot be read ({error.strerror}); check it and its permissions.") from error


def read(path: str | Path) -> RawData:
    """The images below ``path``, with folder names as classes. Files without an image suffix are ignored.

    ``val`` may also be called ``valid`` or ``validation``. Without it, a tenth of train is used; without any split, every
    class is split 70/10/20. Both are drawn with a fixed seed and recorded in ``RawData.note``.

    Raises:
        DataError: in one line: the file, the value and how to fix it.
    """
    root = Path(path)
    splits = _split_folders(root)
    found = [
        (file, category.name, split)
        for split, folder in (splits or {"": root}).items()
        for category in _subfolders(folder)
        for file in _images(category)
    ]
    for split, folder in splits.items():
        if not any(entry[2] == split for entry in found):
            raise DataError(f"{folder} holds no images in class folders; put them in {folder / 'CLASS'}, or remove the folder.")
    if not found:
        raise DataError(
            f"{root} holds no images in class folders; put them in {root / 'train' / 'CLASS'} and {root / 'test' / 'CLASS'}."
        )
    paths = [entry[0] for entry in found]
    return assemble(
        str(root),
        np.array([entry[1] for entry in found]),
        np.array([entry[2] for entry in found]) if splits else None,
        lambda part, labels: FolderSplit([paths[index] for index in part], labels),
    )


def _split_folders(root: Path) -> dict[str, Path]:
    """Folders of the splits, by ``train``, ``val``, ``test``; empty if the folders in ``root`` are classes.

    A single folder ``train`` without subfolders is a class: images of trains.
    """
    folders = [folder for folder in _subfolders(root) if folder.name.lower() in SPLIT_WORDS]
    splits: dict[str, Path] = {}
    for folder in folders:
        split = SPLIT_WORDS[folder.name.lower()]
        if split in splits:
            raise DataError(f"{root} has both '{splits[split].name}' and '{folder.name}', which are one split; keep one of them.")
        splits[split] = folder
    return splits if len(splits) > 1 or any(_subfolders(folder) for folder in folders) else {}


def _subfolders(folder: Path) -> list[Path]:
    return sorted(item for item in folder.iterdir() if item.is_dir() and not item.name.startswith((".", "__")))


def _images(folder: Path) -> list[Path]:
    """All image files below ``folder``, sorted, so that splits do not depend on the order of a directory listing."""

    def fail(error: OSError) -> None:
        raise error

    found = [
        Path(place, name)
        for place, _, names in os.walk(folder, onerror=fail, followlinks=True)
        for name in names
        if Path(name).suffix.lower() in IMAGE_SUFFIXES and not name.startswith(".")
    ]
    return sorted(found)
