"""Label maps of semantic segmentation: a class id for every pixel, and 255 for pixels that count nowhere."""

from __future__ import annotations

import hashlib
import io
from abc import abstractmethod
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vpbench.core.errors import DataError
from vpbench.data.image_errors import named_image
from vpbench.data.raw import PixelSplit, RawSplit

IGNORED = 255
MOST_CLASSES = 255

Mask = NDArray[np.uint8]

_ONE_CHANNEL = ("L", "P", "1", "I", "I;16", "I;16B", "I;16L")  # Pillow's modes


@dataclass(frozen=True)
class MaskValues:
    """What the values in mask files mean.

    Attributes:
        classes: number of classes.
        first: value of class 0; the others follow.
        ignored: values that become 255.
    """

    classes: int
    first: int = 0
    ignored: tuple[int, ...] = (IGNORED,)

    def class_ids(self, values: NDArray[np.int64], name: str) -> Mask:
        """Class ids of the values in a mask.

        Args:
            name: of the mask, for messages.

        Raises:
            DataError: for a value that is no class and not ignored.
        """
        ignored = np.isin(values, self.ignored)
        strange = ~ignored & ((values < self.first) | (values >= self.first + self.classes))
        if strange.any():
            raise DataError(
                f"{name} has the value {values[strange][0]}, and the {self.classes} classes have the values {self.first} to "
                f"{self.first + self.classes - 1}; {' and '.join(map(str, self.ignored))} is for pixels that are ignored."
            )
        return np.where(ignored, IGNORED, values - self.first).astype(np.uint8)


def mask_values(content: bytes, name: str, size: tuple[int, int] | None = None) -> NDArray[np.int64]:
    """The values of an encoded mask, (H, W); of a palette image its indices.

    Args:
        size: width and height of its image; None: not compared.

    Raises:
        DataError: for a damaged file, more than one channel, or another size; ``name`` is in the message.
    """
    with named_image(name), Image.open(io.BytesIO(content)) as image:
        image.load()
        mode, found = image.mode, image.size
        values = np.asarray(image)
    if mode not in _ONE_CHANNEL:
        raise DataError(f"{name} has the mode {mode}; a mask needs one channel (mode L or P), whose value is the class.")
    if size is not None and found != size:
        raise DataError(
            f"{name} is {found[0]} x {found[1]} pixels large and its image {size[0]} x {size[1]}; a mask needs the size of its "
            "image."
        )
    return values.astype(np.int64)


class MaskedSplit(RawSplit):
    """Images with encoded masks; ``values`` says what is in these."""

    values: MaskValues

    @property
    def has_masks(self) -> bool:
        return True

    @abstractmethod
    def mask_name(self, index: int) -> str:
        """Name of the mask of image ``index`` in messages."""

    @abstractmethod
    def mask_content(self, index: int) -> bytes:
        """The encoded mask of image ``index``."""

    def mask_identity(self, index: int) -> str:
        return hashlib.sha256(self.mask_content(index)).hexdigest()

    def mask(self, index: int, size: tuple[int, int]) -> Mask:
        return self.values.class_ids(mask_values(self.mask_content(index), self.mask_name(index), size), self.mask_name(index))


class MaskedPixels(PixelSplit):
    """Images and label maps in memory: uint8 (n, height, width) or (n, height, width, 3), and uint8 (n, height, width)."""

    def __init__(self, pixels: NDArray[np.uint8], masks: Mask, origin: str) -> None:
        super().__init__(pixels, np.zeros(len(pixels), np.int64), origin)
        self.masks = masks

    @property
    def has_masks(self) -> bool:
        return True

    def mask_identity(self, index: int) -> str:
        return hashlib.sha256(self.masks[index].tobytes()).hexdigest()

    def mask(self, index: int, size: tuple[int, int]) -> Mask:
        return self.masks[index]


def nearest(mask: Mask, size: tuple[int, int]) -> Mask:
    """A label map in another size, (height, width): the pixel at floor(i * old / new), as torch's ``nearest``."""
    rows, columns = (np.arange(new) * old // new for new, old in zip(size, mask.shape))
    return mask[rows[:, None], columns]
