"""Images before preprocessing, as returned by the modules of ``vpbench.data.sources``."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vpbench.core.hashing import digest
from vpbench.data.class_names import normalised
from vpbench.data.decoding import AS_LOADED, EACH_ALONE, WhiteLevels, decode
from vpbench.data.flaws import Flaw, flaws_of
from vpbench.data.overlaps import count_shared, overlap_notes
from vpbench.spec.run_spec import Preprocess

Labels = NDArray[np.int64]

SPLITS = ("train", "val", "test")


class RawSplit(ABC):
    """The images and labels of one split. ``labels`` are class ids 0 ... C-1, shape (n,); all 0 where images have masks."""

    def __init__(self, labels: Labels) -> None:
        self.labels = labels

    @property
    def levels(self) -> WhiteLevels:
        """What becomes 255 in images of more than 8 bits per sample, where all of the data set share it."""
        return EACH_ALONE

    def __len__(self) -> int:
        return len(self.labels)

    @abstractmethod
    def name(self, index: int) -> str:
        """Name of image ``index`` in messages: a file, or a row of a file."""

    def short_name(self, index: int) -> str:
        """The image's name in split lists, the same on every machine: its path below the data set's folder, or its number."""
        return self.name(index)

    @abstractmethod
    def content(self, index: int) -> bytes:
        """The bytes of image ``index``: its encoded file, or its pixels."""

    def identity(self, index: int) -> str:
        """Identifier of image ``index``, the same on every machine: a hash of its content, unless a source has a cheaper one."""
        return hashlib.sha256(self.content(index)).hexdigest()

    @cached_property
    def identities(self) -> list[str]:
        """The identity of every image, in order."""
        return [self.identity(index) for index in range(len(self))]

    @cached_property
    def digest(self) -> str:
        """Hash of the images in their order, without labels."""
        return digest(self.identities)

    def image(self, index: int, preprocess: Preprocess = AS_LOADED) -> Image.Image:
        """Image ``index`` in RGB, with ``preprocess``'s orientation and background; it is not resized.

        Raises:
            DataError: with the image's name if it cannot be decoded.
        """
        return decode(self.content(index), self.name(index), preprocess)

    @property
    def has_masks(self) -> bool:
        """Whether images are labelled by masks and not by a class each."""
        return False

    def mask(self, index: int, size: tuple[int, int]) -> NDArray[np.uint8]:
        """Class ids of the pixels of image ``index``, (height, width); 255 for pixels that are ignored.

        Args:
            size: width and height of the image.

        Raises:
            DataError: with the mask's name if it cannot be decoded, or does not fit the image or the classes.
        """
        raise TypeError(f"{self.name(index)} has no mask")

    def mask_identity(self, index: int) -> str:
        """Identifier of the mask of image ``index``, a hash of its content."""
        raise TypeError(f"{self.name(index)} has no mask")

    @cached_property
    def mask_identities(self) -> list[str]:
        """The identity of every mask, in order."""
        return [self.mask_identity(index) for index in range(len(self))]

    @property
    def target_identities(self) -> list[Any]:
        """What a data set's digest has of the labels."""
        return self.mask_identities if self.has_masks else self.labels.tolist()


class PartialSplit(RawSplit):
    """A subset of the concatenation of other splits, e.g. a validation part, k images per class, or train and val together.

    Args:
        sources: the splits.
        chosen: index of each image in the concatenation, shape (n,).
    """

    def __init__(self, sources: Sequence[RawSplit], chosen: NDArray[np.int64]) -> None:
        super().__init__(np.concatenate([source.labels for source in sources])[chosen])
        self._sources, self._chosen = sources, chosen
        self._starts = np.cumsum([0, *(len(source) for source in sources)])

    @property
    def levels(self) -> WhiteLevels:
        return self._sources[0].levels

    def _find(self, index: int) -> tuple[RawSplit, int]:
        place = int(self._chosen[index])
        which = int(np.searchsorted(self._starts, place, side="right")) - 1
        return self._sources[which], place - int(self._starts[which])

    def name(self, index: int) -> str:
        source, place = self._find(index)
        return source.name(place)

    def short_name(self, index: int) -> str:
        source, place = self._find(index)
        return source.short_name(place)

    def content(self, index: int) -> bytes:
        source, place = self._find(index)
        return source.content(place)

    def identity(self, index: int) -> str:
        source, place = self._find(index)
        return source.identities[place]

    def image(self, index: int, preprocess: Preprocess = AS_LOADED) -> Image.Image:
        source, place = self._find(index)
        return source.image(place, preprocess)

    @property
    def has_masks(self) -> bool:
        return any(source.has_masks for source in self._sources)

    def mask(self, index: int, size: tuple[int, int]) -> NDArray[np.uint8]:
        source, place = self._find(index)
        return source.mask(place, size)

    def mask_identity(self, index: int) -> str:
        source, place = self._find(index)
        return source.mask_identities[place]


class PixelSplit(RawSplit):
    """Images in memory, uint8 of shape (n, height, width) or (n, height, width, 3); ``origin`` names them in messages."""

    def __init__(self, pixels: NDArray[np.uint8], labels: Labels, origin: str) -> None:
        super().__init__(labels)
        self.pixels, self._origin = pixels, origin

    def name(self, index: int) -> str:
        return f"image {index} of {self._origin}"

    def content(self, index: int) -> bytes:
        content: bytes = self.pixels[index].tobytes()
        return content

    def image(self, index: int, preprocess: Preprocess = AS_LOADED) -> Image.Image:
        return Image.fromarray(self.pixels[index]).convert("RGB")


@dataclass(frozen=True)
class RawData:
    """A data set: class names and three splits.

    Attributes:
        class_names: name of class id 0, 1, ...
        splits: ``train``, ``val`` and ``test``; ``val`` may be empty.
        digest: hash of images, labels and split membership, independent of file locations.
        note: automatic choices and oddities (a split that was drawn, a class missing in validation), as sentences; may be
            empty.
        val_in_train: whether ``train`` holds the validation images, too, because nothing says which they are.
        unreadable: how many of a user's own images could not be read and were left out, as asked for.
        columns: names of columns, by what they hold, without which others would have been read.
        flaws: those sentences of the note that stay with the rows of runs.
    """

    class_names: tuple[str, ...]
    splits: dict[str, RawSplit]
    digest: str
    note: str = ""
    val_in_train: bool = False
    unreadable: int = 0
    columns: Mapping[str, str] = field(default_factory=dict)
    flaws: tuple[Flaw, ...] = ()

    @classmethod
    def of(
        cls, class_names: Sequence[str], splits: dict[str, RawSplit], notes: Sequence[str] = (), unreadable: int = 0
    ) -> RawData:
        """Computes the digest from the identity of every image.

        Raises:
            DataError: for the name of a class that cannot be written as UTF-8.
        """
        for name in class_names:
            normalised(name, "the class")
        members = {split: [splits[split].identities, splits[split].target_identities] for split in SPLITS}
        identity = digest([list(class_names), members])
        return cls(tuple(class_names), splits, identity, " ".join(notes), unreadable=unreadable, flaws=flaws_of(notes))

    @property
    def has_masks(self) -> bool:
        """Whether images are labelled by masks and not by a class each."""
        return self.splits["train"].has_masks

    @cached_property
    def _overlaps(self) -> list[Flaw]:
        return overlap_notes(self.splits)

    @property
    def all_flaws(self) -> tuple[Flaw, ...]:
        """What stays with the rows of runs: the images that splits share or that train repeats, and the flaws of the note."""
        return (*self._overlaps, *self.flaws)

    @property
    def remarks(self) -> str:
        """The note, and what the images themselves tell: those that splits share or that train repeats."""
        return " ".join(filter(None, [self.note, *self._overlaps]))

    def shared(self, split: str, other: str) -> int:
        """How many images of a split are in another one, too, by their identities."""
        return count_shared(self.splits[split].identities, self.splits[other].identities)

    def with_splits(self, **changed: RawSplit) -> RawData:
        """The same classes with other splits."""
        new = RawData.of(self.class_names, {**self.splits, **changed})
        return replace(self, splits=new.splits, digest=new.digest, val_in_train=False)
