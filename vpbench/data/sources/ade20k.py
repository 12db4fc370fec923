"""ADE20K, 150 classes: the release for the Scene Parsing Challenge 2016."""

from __future__ import annotations

from pathlib import Path

from vpbench.core.errors import DataError
from vpbench.data.masks import IGNORED, MaskValues
from vpbench.data.raw import RawData
from vpbench.data.sources._listed import nested, read_lines
from vpbench.data.sources._mask_files import from_pairs

CLASSES = 150
OTHER = 0  # value of pixels that belong to none of the classes
TABLE = "objectInfo150.txt"
PARTS = {"train": "training", "test": "validation"}  # labels of the official test images are not public


def read(folder: Path) -> RawData:
    """Training images, and the validation images as test split.

    Images lie in ``images/training/*.jpg``, masks of 8 bits in ``annotations/training/*.png``: 0 is other objects, which are
    ignored, k in 1 ... 150 becomes class k - 1.

    Raises:
        DataError: for files that are missing or inconsistent.
    """
    base = nested(Path(folder), "ADEChallengeData2016")
    lists = {split: _pairs(base, part) for split, part in PARTS.items()}
    return from_pairs(base, lists, _class_names(base / TABLE), MaskValues(CLASSES, first=1, ignored=(OTHER, IGNORED)))


def _pairs(base: Path, part: str) -> list[tuple[str, str]]:
    """
    Raises:
        DataError: for an image without a mask, or a mask without an image.
    """
    folders = {kind: base / kind / part for kind in ("images", "annotations")}
    images = {file.stem for file in folders["images"].glob("*.jpg")}
    masks = {file.stem for file in folders["annotations"].glob("*.png")}
    if lone := sorted(images ^ masks):
        name = lone[0]
        has, lacks = (f"images/{part}/{name}.jpg", f"annotations/{part}/{name}.png")
        if name in masks:
            has, lacks = lacks, has
        more = f" (and {len(lone) - 1} more)" if len(lone) > 1 else ""
        raise DataError(f"{base / has} is there, and {lacks} is not{more}; the copy of the data set is incomplete.")
    return [(f"images/{part}/{name}.jpg", f"annotations/{part}/{name}.png") for name in sorted(images)]


def _class_names(file: Path) -> list[str]:
    """The first of the synonyms of each class, by ``Idx`` from 1 to 150.

    Raises:
        DataError: for another table.
    """
    rows = [line.split("\t") for line in read_lines(file)]
    names = {row[0].strip(): row[-1].split(",")[0].strip() for row in rows[1:] if len(row) > 1}
    if list(names) != [str(number) for number in range(1, CLASSES + 1)]:
        raise DataError(f"{file} does not list classes 1 to {CLASSES}, with names in the last column; get the data set again.")
    return list(names.values())
