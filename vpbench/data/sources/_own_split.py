"""A split of a user's own images, every one of which is read once when it is opened; unreadable ones can be left out."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vpbench.core.errors import DataError
from vpbench.core.names import counted
from vpbench.data.decoding import AS_LOADED, EACH_ALONE, DeepValues, WhiteLevels, check_decodes, decode, deep_values
from vpbench.data.flaws import Flaw, flaws_of
from vpbench.data.image_errors import SHOWN, UnreadableError
from vpbench.data.raw import Labels, RawSplit
from vpbench.data.splitting import Indices
from vpbench.spec.run_spec import Preprocess


class OwnSplit(RawSplit):
    """Encoded images; those with more than 8 bits per sample are scaled by the range that all of the data set's share."""

    def __init__(self, labels: Labels) -> None:
        super().__init__(labels)
        self.shared_levels = EACH_ALONE
        self._hashes: list[str] = []
        self._deep: dict[int, DeepValues] = {}

    @property
    def levels(self) -> WhiteLevels:
        return self.shared_levels

    def read_all(self) -> list[DeepValues]:
        """Reads and identifies every image; returns the values of those with more than 8 bits per sample.

        Raises:
            UnreadableError: for all that cannot be read, or have more than 8 bits per sample and cannot be decoded.
        """
        self._hashes, self._deep = [], {}
        found, broken = [], dict[str, str]()
        for index in range(len(self)):
            try:
                content = self.content(index)
                values = deep_values(content, self.name(index))
            except UnreadableError as error:
                broken.update(error.errors)
                continue
            self._hashes.append(hashlib.sha256(content).hexdigest())
            if values:
                found.append(values)
                if values.kind != "colours":
                    self._deep[index] = values
        if broken:
            raise UnreadableError.of(broken)
        return found

    def check(self, index: int) -> None:
        """
        Raises:
            UnreadableError: when image ``index`` cannot be read or decoded.
        """
        check_decodes(self.content(index), self.name(index))

    def identity(self, index: int) -> str:
        """The hash of the content; where its values are scaled, with the one that becomes white."""
        known = self._hashes[index] if self._hashes else super().identity(index)
        return f"{known} {self._deep[index].white(self.levels):g}" if index in self._deep else known

    def image(self, index: int, preprocess: Preprocess = AS_LOADED) -> Image.Image:
        return decode(self.content(index), self.name(index), preprocess, self.levels)


def readable(split: OwnSplit, origin: str, notes: list[str]) -> Indices:
    """The images that can be decoded, every one of which is tried; a note counts the others and names the first ones.

    Args:
        origin: the folder or file. Names in the note are those below it, since rows that are passed on hold the note.
    """

    def is_broken(index: int) -> bool:
        try:
            split.check(index)
        except UnreadableError:
            return True
        return False

    with ThreadPoolExecutor() as pool:  # Pillow decodes without the GIL
        broken = np.array(list(pool.map(is_broken, range(len(split)))), bool)
    if names := [split.name(int(index)) for index in np.flatnonzero(broken)]:
        place = Path(origin)
        above = f"{place if place.is_dir() else place.parent}{os.sep}" if place.exists() else ""
        names = [name.replace(above, "") if above else name for name in names]
        more = ", ..." if len(names) > SHOWN else ""
        shown = f"{', '.join(names[:SHOWN])}{more}"
        notes.append(Flaw(f"Left out, as they cannot be read: {counted(len(names), 'image')} ({shown})."))
    return np.flatnonzero(~broken)


def check_splits(origin: str, membership: NDArray[np.str_] | None, wanted: str, notes: Sequence[str]) -> None:
    """
    Args:
        wanted: what a split has, in words.

    Raises:
        DataError: for splits without training or test images; it says what was left out, too.
    """
    present = None if membership is None else set(membership.tolist())
    for name in ("train", "test"):
        if present is not None and name not in present:
            raise DataError(" ".join([f"{origin} has no {name} images; add a split '{name}' {wanted}.", *flaws_of(notes)]))
