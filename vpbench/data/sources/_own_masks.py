"""Splits, class ids and checks of a user's own images with masks, for folders and parquet files."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from vpbench.core.errors import DataError
from vpbench.core.names import counted
from vpbench.data.decoding import check_decodes, upright_size, white_levels
from vpbench.data.flaws import Flaw, flaws_of
from vpbench.data.image_errors import SHOWN, UnreadableError
from vpbench.data.masks import IGNORED, MOST_CLASSES, Mask, MaskValues, mask_values
from vpbench.data.raw import SPLITS, RawData
from vpbench.data.sources._own_split import OwnSplit, check_splits, readable
from vpbench.data.splitting import Indices, hold_out

SEED = 0
TEST_SHARE, VAL_SHARE = 0.2, 0.1


class OwnMasks(OwnSplit):
    """Encoded images with encoded masks, every one of which is read once when it is opened."""

    def __init__(self, count: int) -> None:
        super().__init__(np.zeros(count, np.int64))
        self.values = MaskValues(MOST_CLASSES)
        self._mask_hashes: list[str] = []

    @property
    def has_masks(self) -> bool:
        return True

    @abstractmethod
    def mask_name(self, index: int) -> str:
        """Name of the mask of image ``index`` in messages."""

    @abstractmethod
    def mask_content(self, index: int) -> bytes:
        """The encoded mask of image ``index``."""

    def read_masks(self) -> NDArray[np.int64]:
        """Reads and identifies every mask; returns the values of all together, ascending, without the ignored one.

        Raises:
            UnreadableError: for all images that are none, and all whose masks are none.
            DataError: for all masks of another size than their image, and those in which all pixels are ignored.
        """
        self._mask_hashes, found, broken, wrong = [], set[int](), dict[str, str](), dict[str, str]()
        for index in range(len(self)):
            try:
                found |= self._read_mask(index)
            except UnreadableError as error:
                broken.update(error.errors)
            except DataError as error:
                wrong[self.mask_name(index)] = str(error)
        if broken:
            raise UnreadableError.of(broken)
        if wrong:
            first, *others = wrong
            names = ", ".join(others[:SHOWN]) + (", ..." if len(others) > SHOWN else "")
            more = f" {counted(len(others), 'more mask')} cannot be used: {names}." if others else ""
            raise DataError(wrong[first] + more)
        return np.array(sorted(found), np.int64)

    def _read_mask(self, index: int) -> set[int]:
        """Identifies a mask; returns its values without the ignored one."""
        content, size = self.mask_content(index), upright_size(self.content(index), self.name(index))
        values = set(np.unique(mask_values(content, self.mask_name(index), size)).tolist()) - {IGNORED}
        if not values:
            raise DataError(
                f"{self.mask_name(index)} has the value {IGNORED} in all pixels, which are ignored; label some of them, or take "
                "image and mask out."
            )
        self._mask_hashes.append(hashlib.sha256(content).hexdigest())
        return values

    def check(self, index: int) -> None:
        """
        Raises:
            UnreadableError: when image ``index`` or its mask cannot be read or decoded.
        """
        super().check(index)
        check_decodes(self.mask_content(index), self.mask_name(index))

    def mask_identity(self, index: int) -> str:
        return self._mask_hashes[index] if self._mask_hashes else hashlib.sha256(self.mask_content(index)).hexdigest()

    def mask(self, index: int, size: tuple[int, int]) -> Mask:
        name = self.mask_name(index)
        return self.values.class_ids(mask_values(self.mask_content(index), name, size), name)


def assemble_masks(
    origin: str,
    count: int,
    membership: NDArray[np.str_] | None,
    select: Callable[[Indices], OwnMasks],
    names: Sequence[str] | None,
    known: Sequence[str] = (),
    skip_unreadable: bool = False,
) -> RawData:
    """Builds a data set from a list of images with masks.

    Without splits 70/10/20 % of the images, drawn with a fixed seed; without a validation split a tenth of train. Without
    names, the classes are 0 to the largest value in a training mask, and called by their numbers.

    Args:
        origin: the folder or file, for messages.
        count: of images.
        membership: each image's split, one of ``SPLITS``; None if there are no splits.
        select: returns a split from indices.
        names: of the classes; None if nothing says them.
        known: what is known already of the data, as sentences.
        skip_unreadable: whether images that cannot be decoded, or whose masks cannot, are left out with a note.

    Raises:
        DataError: for a split without images, a mask that does not fit, or values beyond the classes.
    """
    notes, given = list(known), count
    kept = readable(select(np.arange(count)), origin, notes) if skip_unreadable else np.arange(count)
    count, membership = len(kept), None if membership is None else membership[kept]
    check_splits(origin, membership, "with images and masks", notes)
    if membership is None and count < 2:
        few = f"{origin} has {counted(count, 'image')}, too few to be divided into train, validation and test; add some."
        raise DataError(" ".join([few, *flaws_of(notes)]))
    parts = _parts(count, membership, notes)
    splits = {name: select(kept[part]) for name, part in parts.items()}
    values = {name: split.read_masks() for name, split in splits.items()}
    classes = list(names) if names is not None else _numbered(origin, values["train"])
    if len(classes) > MOST_CLASSES:
        raise DataError(f"{origin} has {len(classes)} classes, and masks of 8 bits hold {MOST_CLASSES} at most.")
    for name, found in values.items():
        if len(found) and not 0 <= found[0] <= found[-1] < len(classes):
            strange = int(found[0] if found[0] < 0 else found[-1])
            where = next(split.mask_name(place) for split, place in _with_value(splits[name], strange))
            raise DataError(
                f"{where} has the value {strange}, and the {len(classes)} classes have the values 0 to {len(classes) - 1}; "
                f"{IGNORED} is for pixels that are ignored."
            )
    if absent := sorted(set(range(len(classes))) - set(values["train"].tolist())):
        notes.append(_absent(classes, absent, named=names is not None))
    levels = white_levels([deep for split in splits.values() for deep in split.read_all()])
    for split in splits.values():
        split.shared_levels, split.values = levels, MaskValues(len(classes))
    return RawData.of(classes, dict(splits), notes, given - count)


def _parts(count: int, membership: NDArray[np.str_] | None, notes: list[str]) -> dict[str, Indices]:
    alike = np.zeros(count, np.int64)
    if membership is None:
        not_test, test = hold_out(alike, TEST_SHARE, SEED)
        train, val = hold_out(alike[not_test], VAL_SHARE / (1 - TEST_SHARE), SEED)
        notes.append("No splits given: 70 % of the images became train, 10 % val, 20 % test, drawn with a fixed seed.")
        return {"train": not_test[train], "val": not_test[val], "test": test}
    parts = {name: np.flatnonzero(membership == name) for name in SPLITS}
    if len(parts["train"]) > 1 and not len(parts["val"]):
        train = parts["train"]
        kept, held_out = hold_out(alike[train], VAL_SHARE, SEED)
        notes.append(f"No validation split: {len(held_out)} of {len(train)} training images became one, drawn with a fixed seed.")
        parts |= {"train": train[kept], "val": train[held_out]}
    return parts


def _absent(classes: Sequence[str], absent: Sequence[int], named: bool) -> Flaw:
    """That some classes are in no training mask; numbers with gaps are seldom meant as classes."""
    some = ", ".join(classes[each] for each in absent[:5]) + (f" and {len(absent) - 5} more" if len(absent) > 5 else "")
    have = "has" if len(absent) == 1 else "have"
    gaps = "" if named else " The values of masks are counted as classes from 0 on: number them without gaps."
    return Flaw(f"{len(absent)} of {len(classes)} classes {have} no pixel in a training mask: {some}.{gaps}")


def _numbered(origin: str, values: NDArray[np.int64]) -> list[str]:
    """Class names where nothing says them: the numbers from 0 to the largest value of a training mask."""
    if len(values) and values[-1] > 0:
        return [str(value) for value in range(int(values[-1]) + 1)]
    only = ", ".join([*map(str, values.tolist()), f"{IGNORED} (ignored)"])
    raise DataError(f"{origin}: the training masks have no values but {only}; segmentation needs two classes or more.")


def _with_value(split: OwnMasks, value: int) -> list[tuple[OwnMasks, int]]:
    """Where a value occurs first."""
    for place in range(len(split)):
        if (mask_values(split.mask_content(place), split.mask_name(place)) == value).any():
            return [(split, place)]
    return []
