"""Masks as PNG files with a palette: the value of a pixel is its class, and viewers show a colour for it."""

from __future__ import annotations

import io
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vpbench.core.errors import StoreError, UsageError
from vpbench.core.files import write_atomically
from vpbench.deploy.prediction import Prediction


@cache
def palette() -> bytes:
    """Red, green and blue of 256 classes: PASCAL VOC's colour map, whose bits are those of the class in turn."""
    colours = np.zeros((256, 3), np.uint8)
    for place in range(8):
        for channel in range(3):
            colours[:, channel] |= ((np.arange(256) >> (3 * place + channel)) & 1).astype(np.uint8) << (7 - place)
    return colours.tobytes()


def encode_mask(mask: NDArray[np.uint8]) -> bytes:
    """A mask (H, W) of class ids as a PNG file with a palette."""
    image = Image.fromarray(mask)
    image.putpalette(palette())
    content = io.BytesIO()
    image.save(content, "PNG", optimize=True)
    return content.getvalue()


class MaskFolder:
    """Writes the mask of each image to ``FOLDER/NAME.png``; a name that is taken gets a number.

    Args:
        folder: need not exist.

    Raises:
        UsageError: for a file in its place.
    """

    def __init__(self, folder: Path) -> None:
        if any(place.exists() and not place.is_dir() for place in (folder, *folder.parents)):
            raise UsageError(f"--masks {folder} is a file, or within one: name a folder.")
        self.folder = folder
        self._taken: set[Path] = set()

    def write(self, prediction: Prediction) -> Path:
        """
        Raises:
            StoreError: when it cannot be written.
        """
        assert prediction.mask is not None
        place, number = prediction.image.place, 1
        while (path := self.folder / place.with_name(f"{place.name}{f'-{number}' if number > 1 else ''}.png")) in self._taken:
            number += 1
        self._taken.add(path)
        content = encode_mask(prediction.mask)
        try:
            write_atomically(path, lambda partial: partial.write_bytes(content))
        except OSError as error:
            raise StoreError(
                f"{path} cannot be written: {error.strerror or error}. Choose another folder with --masks."
            ) from error
        return path
