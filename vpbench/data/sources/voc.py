"""Pascal VOC 2012, semantic segmentation: the official training and validation lists."""

from __future__ import annotations

from pathlib import Path

from vpbench.data.masks import MaskValues
from vpbench.data.raw import RawData
from vpbench.data.sources._listed import nested, read_lines
from vpbench.data.sources._mask_files import from_pairs

CLASSES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
PARTS = {"train": "train", "test": "val"}  # labels of the official test images are not public


def read(folder: Path) -> RawData:
    """The images of ``ImageSets/Segmentation/train.txt``, and those of ``val.txt`` as test split.

    Images lie in ``JPEGImages/*.jpg``, masks in ``SegmentationClass/*.png``: palette images whose index is the class, 0 the
    background; 255, borders and difficult objects, is ignored.

    Raises:
        DataError: for files that are missing or inconsistent.
    """
    base = nested(Path(folder), "VOCdevkit/VOC2012", "VOC2012")
    lists = {split: _pairs(base / "ImageSets" / "Segmentation" / f"{part}.txt") for split, part in PARTS.items()}
    return from_pairs(base, lists, CLASSES, MaskValues(len(CLASSES)))


def _pairs(file: Path) -> list[tuple[str, str]]:
    names = [line.strip() for line in read_lines(file)]
    return [(f"JPEGImages/{name}.jpg", f"SegmentationClass/{name}.png") for name in names]
