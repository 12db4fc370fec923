"""Data sets of a few images in the exact formats of the published ones, one module per source.

Every image has one RGB value that encodes its class, split and number, so that a test can decode what was read.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

# For each split, the class (0, 1, ...) and the encoded file of every image.
Content = dict[str, list[tuple[int, bytes]]]

GREEN = {"train": 40, "val": 120, "test": 200}


def picture(kind: int, split: str, number: int, size: tuple[int, int] = (20, 16)) -> NDArray[np.uint8]:
    """Constant image, uint8 (height, width, 3): red encodes the class (up to 5), green the split, blue the number."""
    rgb = (20 + 40 * kind, GREEN[split], (20 * number) % 256)
    return np.full((size[1], size[0], 3), rgb, np.uint8)


def decoded(image: Image.Image) -> tuple[int, str]:
    """Class and split that a picture tells, also after JPEG."""
    red, green, _ = np.asarray(image).reshape(-1, 3).mean(axis=0)
    return round((red - 20) / 40), min(GREEN, key=lambda split: abs(GREEN[split] - green))


def encoded(pixels: NDArray[np.uint8], kind: str = "jpeg") -> bytes:
    """The file of an image."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind)
    return stream.getvalue()


def content(classes: int = 3, kind: str = "jpeg", **counts: int) -> Content:
    """``counts`` images of every class for each split, e.g. ``train=4``."""
    return {
        split: [(label, encoded(picture(label, split, number), kind)) for number in range(count) for label in range(classes)]
        for split, count in counts.items()
    }


def put(file: Path, data: bytes | str) -> None:
    """Writes a file and the folders above it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data if isinstance(data, bytes) else data.encode())
