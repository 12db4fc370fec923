"""Classes of ImageNet by WordNet id, and images in one folder per class."""

from __future__ import annotations

import os
import re
from functools import cache
from pathlib import Path

import numpy as np

from vpbench.core.errors import DataError
from vpbench.data.raw import Labels
from vpbench.data.sources._image_files import SUFFIXES
from vpbench.data.sources._listed import FileSplit

WORDNET_ID = re.compile(r"n\d{8}")


@cache
def wordnet_ids() -> tuple[str, ...]:
    """The ids of ImageNet-1k's 1,000 classes, ascending, which is the order of class ids 0 to 999; timm's list."""
    from timm.data import ImageNetInfo

    return tuple(ImageNetInfo("imagenet-1k").label_names())


def class_folders(folder: Path) -> dict[str, Path]:
    """The folders that are called like a class of ImageNet-1k, by their ids, ascending.

    Raises:
        DataError: when there are none, or one is called like a class of a larger ImageNet.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is missing; the copy of the data set is incomplete.")
    with os.scandir(folder) as entries:
        found = {entry.name: Path(entry.path) for entry in entries if WORDNET_ID.fullmatch(entry.name) and entry.is_dir()}
    if not found:
        raise DataError(f"{folder} has no folders called by WordNet ids, as n01440764; get the data set again.")
    if strange := sorted(found.keys() - set(wordnet_ids())):
        raise DataError(f"{folder / strange[0]}: {strange[0]} is no class of ImageNet-1k; take the folder out.")
    return dict(sorted(found.items()))


def split_of(base: Path, folders: dict[str, Path], classes: list[str]) -> FileSplit:
    """The images in class folders.

    Args:
        base: folder above them, for the images' names.
        folders: by class.
        classes: in the order of class ids.

    Raises:
        DataError: for a class folder without images, or one of another class.
    """
    ids = {name: number for number, name in enumerate(classes)}
    files: list[str] = []
    sizes: list[int] = []
    labels: list[int] = []
    for name, folder in folders.items():
        if name not in ids:
            raise DataError(f"{folder}: class {name} is none of the training images'; get the data set again.")
        images = _images(folder)
        if not images:
            raise DataError(f"{folder} has no images; the copy of the data set is incomplete.")
        files += [f"{folder.relative_to(base).as_posix()}/{image}" for image in images]
        sizes += images.values()
        labels += [ids[name]] * len(images)
    return FileSplit(base, files, sizes, np.array(labels, np.int64))


def no_images(base: Path) -> FileSplit:
    """A split without images."""
    nothing: Labels = np.empty(0, np.int64)
    return FileSplit(base, [], [], nothing)


def _images(folder: Path) -> dict[str, int]:
    """Names and sizes of the images in a folder, sorted."""
    with os.scandir(folder) as entries:
        found = {
            entry.name: entry.stat().st_size
            for entry in entries
            if not entry.name.startswith(".") and Path(entry.name).suffix.lower() in SUFFIXES
        }
    return dict(sorted(found.items()))
