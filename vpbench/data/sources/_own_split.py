"""A split of a user's own images, every one of which is read once when it is opened."""

from __future__ import annotations

import hashlib

from PIL import Image

from vpbench.data.decoding import AS_LOADED, EACH_ALONE, DeepValues, WhiteLevels, decode, deep_values
from vpbench.data.raw import Labels, RawSplit
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
        """Reads and identifies every image; returns the values of those with more than 8 bits per sample."""
        self._hashes, self._deep = [], {}
        found = []
        for index in range(len(self)):
            content = self.content(index)
            self._hashes.append(hashlib.sha256(content).hexdigest())
            if values := deep_values(content, self.name(index)):
                found.append(values)
                if values.kind != "colours":
                    self._deep[index] = values
        return found

    def identity(self, index: int) -> str:
        """The hash of the content; where its values are scaled, with the one that becomes white."""
        known = self._hashes[index] if self._hashes else super().identity(index)
        return f"{known} {self._deep[index].white(self.levels):g}" if index in self._deep else known

    def image(self, index: int, preprocess: Preprocess = AS_LOADED) -> Image.Image:
        return decode(self.content(index), self.name(index), preprocess, self.levels)
