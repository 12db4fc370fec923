"""ImageNet-V2, -A, -R and -Sketch: test images alone, of all or some of ImageNet-1k's classes, called by their WordNet ids."""

from __future__ import annotations

from pathlib import Path

from vpbench.core.errors import DataError
from vpbench.data.raw import RawData
from vpbench.data.sources._listed import nested
from vpbench.data.sources._wordnet import class_folders, no_images, split_of, wordnet_ids


def read(folder: Path, inside: tuple[str, ...] | list[str] = (), numbered: bool = False) -> RawData:
    """One folder of images per class: ``n01498041/``, or for ImageNet-V2 ``0/`` to ``999/``, the class ids of ImageNet-1k.

    Args:
        inside: folders of the archive that may be around them, the first that is there is entered.
        numbered: whether folders are called by class ids.

    Raises:
        DataError: for folders that are missing or called otherwise.
    """
    base = nested(Path(folder), *inside)
    found = _numbered(base) if numbered else class_folders(base)
    classes = list(found)
    nothing = no_images(base)
    return RawData.of(classes, {"train": nothing, "val": nothing, "test": split_of(base, found, classes)})


def _numbered(folder: Path) -> dict[str, Path]:
    """Class folders by WordNet ids, ascending."""
    names = wordnet_ids()
    places = [place for place in folder.iterdir() if place.is_dir() and not place.name.startswith(".")]
    for place in places:
        if not place.name.isdecimal() or int(place.name) >= len(names):
            raise DataError(f"{place}: folders must be called by class ids, 0 to {len(names) - 1}; get the data set again.")
    if not places:
        raise DataError(f"{folder} has no class folders; get the data set again.")
    return {names[number]: place for number, place in sorted((int(place.name), place) for place in places)}
