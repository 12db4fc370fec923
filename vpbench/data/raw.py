"""Images as they come from their source, before any resizing: what every module of ``vpbench.data.sources`` returns."""

from __future__ import annotations

import hashlib
import io
import struct
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile

from vpbench.core.errors import DataError
from vpbench.core.hashing import digest

Labels = NDArray[np.int64]

SPLITS = ("train", "val", "test")


class RawSplit(ABC):
    """The images and labels of one split. ``labels`` are class ids 0 ... C-1, shape (n,)."""

    def __init__(self, labels: Labels) -> None:
        self.labels = labels

    def __len__(self) -> int:
        return len(self.labels)

    @abstractmethod
    def name(self, index: int) -> str:
        """What messages call image ``index``: a file, or a row of a file."""

    @abstractmethod
    def content(self, index: int) -> bytes:
        """The bytes that identify image ``index``: its encoded file, or its pixels."""

    def image(self, index: int) -> Image.Image:
        """Image ``index`` in RGB. Raises DataError, with its name, when it cannot be decoded."""
        return decode(self.content(index), self.name(index))


class PixelSplit(RawSplit):
    """Images held as pixels, uint8 of shape (n, height, width), grey; ``origin`` names them in messages."""

    def __init__(self, pixels: NDArray[np.uint8], labels: Labels, origin: str) -> None:
        super().__init__(labels)
        self.pixels, self._origin = pixels, origin

    def name(self, index: int) -> str:
        return f"image {index} of {self._origin}"

    def content(self, index: int) -> bytes:
        content: bytes = self.pixels[index].tobytes()
        return content

    def image(self, index: int) -> Image.Image:
        return Image.fromarray(self.pixels[index]).convert("RGB")


@dataclass(frozen=True)
class RawData:
    """A data set with its three splits.

    Attributes:
        class_names: name of class id 0, 1, ...
        splits: ``train``, ``val`` and ``test``; ``val`` may be empty.
        digest: hash of images, labels and split membership, independent of where the files lie.
        note: what was decided for the user or looks odd (a split that was made, a class that validation lacks), in plain
            sentences; empty when there is nothing to say.
    """

    class_names: tuple[str, ...]
    splits: dict[str, RawSplit]
    digest: str
    note: str = ""

    @classmethod
    def of(cls, class_names: Sequence[str], splits: dict[str, RawSplit], notes: Sequence[str] = ()) -> RawData:
        """Hashes every image, and notes images that training shares with another split."""
        hashes = {
            split: [hashlib.sha256(splits[split].content(index)).hexdigest() for index in range(len(splits[split]))]
            for split in SPLITS
        }
        members = {split: [hashes[split], splits[split].labels.tolist()] for split in SPLITS}
        shared = {split: len(set(hashes["train"]) & set(hashes[split])) for split in ("val", "test")}
        repeats = [f"Images in both train and {split}: {count}." for split, count in shared.items() if count]
        return cls(tuple(class_names), splits, digest([list(class_names), members]), " ".join([*notes, *repeats]))


def decode(content: bytes, name: str) -> Image.Image:
    """The RGB image in an encoded file.

    An alpha channel is dropped, a palette looked up, 16-bit grey scaled to 8 bits; EXIF rotation is ignored, as in torchvision.

    Raises:
        DataError: for anything that is not a whole image; ``name`` says which.
    """
    # Another library in this process may have told Pillow to fill truncated images with grey.
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    try:
        with Image.open(io.BytesIO(content)) as image:
            if image.mode.startswith("I"):
                return Image.fromarray((np.asarray(image) // 256).clip(0, 255).astype(np.uint8)).convert("RGB")
            return image.convert("RGB")
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError) as error:
        reason = "not an image" if "cannot identify" in str(error) else str(error)
        raise DataError(f"{name} cannot be read as an image ({reason}); repair or remove it.") from error
