"""Pascal VOC 2012 in the layout of its archive, with masks as palette images."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from miniatures import encoded, picture, put


def mask(number: int, height: int = 16, width: int = 20) -> NDArray[np.uint8]:
    """Background, an object of class 1 + number, and its border of 255."""
    values = np.zeros((height, width), np.uint8)
    values[4:12, 4:12] = 255
    values[5:11, 5:11] = 1 + number
    return values


def write(folder: Path, **counts: int) -> None:
    """``counts`` images of each split, and one that is segmented in no list."""
    base = folder / "VOCdevkit" / "VOC2012"
    names: dict[str, list[str]] = {}
    for split, count in (counts or {"train": 4, "test": 3}).items():
        for number in range(count):
            name = f"20{7 if split == 'train' else 8:02d}_{number:06d}"
            names.setdefault(split, []).append(name)
            put(base / "JPEGImages" / f"{name}.jpg", encoded(picture(1, split, number)))
            put(base / "SegmentationClass" / f"{name}.png", palette(mask(number)))
    put(base / "JPEGImages" / "2012_004331.jpg", encoded(picture(1, "train", 9)))
    for split, part in (("train", "train"), ("test", "val")):
        put(base / "ImageSets" / "Segmentation" / f"{part}.txt", "\n".join(names[split]) + "\n")


def palette(values: NDArray[np.uint8]) -> bytes:
    """A mask as VOC has it: a palette image whose indices are the classes."""
    image = Image.fromarray(values, "P")
    image.putpalette([(37 * index) % 256 for index in range(768)])
    stream = io.BytesIO()
    image.save(stream, "png")
    return stream.getvalue()
