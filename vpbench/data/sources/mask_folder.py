"""A user's folder of images and masks: ``images/{train,val,test}/*`` with ``masks/{train,val,test}/*``, or the other way round.

An image and its mask have the same name, but for the ending. ``classes.txt`` beside the folders names the classes, one a line,
in the order of their values.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from vpbench.core.errors import DataError
from vpbench.core.names import counted
from vpbench.data.flaws import Flaw
from vpbench.data.raw import RawData
from vpbench.data.sources._image_files import Ignored, images_below, read_image, subfolders
from vpbench.data.sources._own_masks import OwnMasks, assemble_masks
from vpbench.data.sources._split_names import split_of

IMAGES = frozenset({"images", "image", "imgs", "img", "jpegimages", "photos"})
MASKS = frozenset(
    {"masks", "mask", "annotations", "annotation", "labels", "label", "segmentations", "segmentationclass", "ground_truth", "gt"}
)
CLASSES = "classes.txt"


class MaskFiles(OwnMasks):
    """Images and masks in files, read when needed."""

    def __init__(self, images: list[Path], masks: list[Path]) -> None:
        super().__init__(len(images))
        self._images, self._masks = images, masks

    def name(self, index: int) -> str:
        return str(self._images[index])

    def mask_name(self, index: int) -> str:
        return str(self._masks[index])

    def content(self, index: int) -> bytes:
        return read_image(self._images[index])

    def mask_content(self, index: int) -> bytes:
        return read_image(self._masks[index])


def read(path: str | Path, skip_unreadable: bool = False) -> RawData:
    """The images below ``path`` with their masks.

    A mask is an image of one channel whose value is the class, from 0, or 255 for pixels that are ignored; a palette image counts
    by its indices.

    Args:
        skip_unreadable: whether images are left out that cannot be decoded or whose masks cannot; every one is decoded once.

    Raises:
        DataError: in one line: the file, the value and how to fix it.
    """
    root = Path(path)
    base = _base(root)
    found = pairs_of_folders(base)
    if not found:
        raise DataError(
            f"{root} has no masks beside its images; give images/train/*.jpg with masks/train/*.png of the same names, and "
            "also for test. A folder for each class is for image classification."
        )
    ignored, notes = Ignored(), []
    images: list[Path] = []
    masks: list[Path] = []
    splits: list[str] = []
    unused = 0
    for split, image_folder, mask_folder in found:
        ours, theirs = (_by_name(folder, ignored) for folder in (image_folder, mask_folder))
        for name, file in ours.items():
            if name not in theirs:
                raise DataError(f"{file} has no mask: there is no {mask_folder / name}.png; add it, or take the image out.")
            images.append(file)
            masks.append(theirs[name])
            splits.append(split)
        if not ours:
            raise DataError(f"{image_folder} holds no images; put some there, or remove the folder.")
        unused += len(theirs.keys() - ours.keys())
    if unused:
        notes.append(Flaw(f"Ignored: {counted(unused, 'mask')} without an image."))
    membership = np.array(splits) if any(splits) else None
    return assemble_masks(
        str(root), len(images), membership,
        lambda part: MaskFiles([images[place] for place in part], [masks[place] for place in part]),
        class_names_in(base / CLASSES), [*notes, *ignored.notes], skip_unreadable,
    )  # fmt: skip


def pairs_of_folders(base: Path) -> list[tuple[str, Path, Path]]:
    """Split (empty if there are none), folder of images and folder of masks; empty if this is another layout."""
    if pair := _pair_in(base):
        images, masks = pair
        splits = {folder.name: split for folder in subfolders(images) if (split := split_of(folder.name))}
        if not splits:
            return [("", images, masks)]
        found = []
        for name, split in splits.items():
            same = {each.name: each for each in subfolders(masks)}
            if name not in same:
                raise DataError(f"{masks} has no folder '{name}', which {images} has; masks lie in folders of the same names.")
            found.append((split, images / name, same[name]))
        return found
    inside = [(split, pair) for folder in subfolders(base) if (split := split_of(folder.name)) and (pair := _pair_in(folder))]
    return [(split, *pair) for split, pair in inside]


def class_names_in(file: Path) -> list[str] | None:
    """Names of classes, one a line; None without the file.

    Raises:
        DataError: for a name that is there twice, or a file that is no text.
    """
    if not file.exists():
        return None
    try:
        names = [line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise DataError(f"{file} is no text in UTF-8 ({error.reason}); write the names of the classes, one a line.") from error
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise DataError(f"{file} has '{twice}' twice; a class needs a name of its own.")
    if len(names) < 2:
        raise DataError(f"{file} names {counted(len(names), 'class')}; segmentation needs two or more.")
    return names


def _base(root: Path) -> Path:
    """The folder with the folders of images and masks: ``root``, or one below where each holds nothing but the next."""
    base = root
    while not pairs_of_folders(base) and len(inside := subfolders(base)) == 1:
        base = inside[0]
    return base


def _pair_in(folder: Path) -> tuple[Path, Path] | None:
    """The folder of images and the folder of masks in ``folder``, where it has one of each."""
    inside = subfolders(folder)
    images = [each for each in inside if each.name.lower() in IMAGES]
    masks = [each for each in inside if each.name.lower() in MASKS]
    return (images[0], masks[0]) if len(images) == len(masks) == 1 else None


def _by_name(folder: Path, ignored: Ignored) -> dict[str, Path]:
    """Images below a folder, by their path in it without the ending.

    Raises:
        DataError: where two have the same name.
    """
    found: dict[str, Path] = {}
    for file in images_below(folder, set(), ignored):
        name = os.path.splitext(file.relative_to(folder).as_posix())[0]  # noqa: PTH122 - as text, with the folders
        if name in found:
            raise DataError(f"{found[name]} and {file} have one name but for their endings; keep one of them.")
        found[name] = file
    return found
