"""A data set that is not on this machine, as its card counts it: enough to plan runs, not to do them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from vpbench.core.errors import MissingDataError
from vpbench.data.catalog import DatasetCard
from vpbench.data.raw import RawData, RawSplit


class CountedSplit(RawSplit):
    """Images that are not there: all different, and with equally frequent classes."""

    def __init__(self, count: int, classes: int, origin: str) -> None:
        super().__init__(np.arange(count, dtype=np.int64) % classes)
        self._origin = origin

    def name(self, index: int) -> str:
        return f"image {index} of {self._origin}"

    def identity(self, index: int) -> str:
        return self.name(index)

    def content(self, index: int) -> bytes:
        raise MissingDataError(f"{self.name(index)} is not here, only counted; get the data set first.")


class CountedData(RawData):
    """What a card says of a data set. Its digest is empty, since nobody knows it before the images are there."""

    @classmethod
    def of_card(cls, card: DatasetCard) -> CountedData:
        sizes = {"train": card.n_train, "val": card.n_val, "test": card.n_test}
        splits: dict[str, RawSplit] = {
            part: CountedSplit(size, card.classes, f"{card.title} {part}") for part, size in sizes.items()
        }
        return cls(tuple(map(str, range(card.classes))), splits, digest="")

    def with_splits(self, **changed: RawSplit) -> RawData:
        return replace(self, splits={**self.splits, **changed})
