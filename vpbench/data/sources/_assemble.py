"""Checks, class ids and missing splits of user data, for folders and parquet files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from vpbench.core.errors import DataError
from vpbench.core.names import quoted
from vpbench.data.class_names import merged_names
from vpbench.data.decoding import white_levels
from vpbench.data.flaws import flaws_of
from vpbench.data.raw import SPLITS, Labels, RawData
from vpbench.data.sources._own_split import OwnSplit, check_splits, readable
from vpbench.data.splitting import Indices, hold_out

SEED = 0
TEST_SHARE, VAL_SHARE = 0.2, 0.1

Keys = NDArray[np.int64] | NDArray[np.str_]


def assemble(
    origin: str,
    keys: Keys,
    membership: NDArray[np.str_] | None,
    select: Callable[[Indices, Labels], OwnSplit],
    class_name: Callable[[int | str], str] = str,
    known: Sequence[str] = (),
    skip_unreadable: bool = False,
) -> RawData:
    """Builds a data set from a list of labelled images.

    Class ids 0 ... C-1 are assigned to the sorted classes of the training split and used for all splits: ids assigned per split
    would differ when a split lacks a class. Names are normalised before.

    Args:
        origin: the folder or file, for messages.
        keys: the user's label of each image, shape (n,).
        membership: each image's split, one of ``SPLITS``; None if there are no splits.
        select: returns a split from indices and class ids.
        class_name: readable name of a label.
        known: what is known already of the data, as sentences.
        skip_unreadable: whether images that cannot be decoded are left out with a note, as if they were not there.

    Raises:
        DataError: for a split without images, fewer than two classes, classes that differ between train and test, or the name of
            a class that is no valid UTF-8.
    """
    if len(keys) == 0:
        raise DataError(f"{origin} holds no images; give a folder or file with at least two classes of images.")
    notes, given = list(known), len(keys)
    kept = readable(select(np.arange(given), np.zeros(given, np.int64)), origin, notes) if skip_unreadable else np.arange(given)
    keys, membership = keys[kept], None if membership is None else membership[kept]
    if not len(keys):
        raise DataError(" ".join([f"{origin} holds no image that can be read.", *flaws_of(notes)]))
    if keys.dtype.kind == "U":
        plain = merged_names(np.unique(keys).tolist(), f"{origin}: the class", notes)
        keys = np.array([plain[key] for key in keys.tolist()], np.str_)
    check_splits(origin, membership, "with images of every class", notes)
    parts = _random_parts(keys, notes) if membership is None else {name: np.flatnonzero(membership == name) for name in SPLITS}
    if membership is not None and not len(parts["val"]):
        parts = _with_validation(parts, keys, notes)
    if keys.dtype.kind == "i":
        _check_numbers(origin, np.unique(keys).tolist(), class_name, notes)
    _check_classes(origin, {name: keys[part] for name, part in parts.items()}, class_name, notes, drawn=membership is None)

    classes = np.unique(keys[parts["train"]])
    splits = {name: select(kept[part], np.searchsorted(classes, keys[part]).astype(np.int64)) for name, part in parts.items()}
    deep = [values for split in splits.values() for values in split.read_all()]
    levels = white_levels(deep)
    for split in splits.values():
        split.shared_levels = levels
    whites = {f"{white:g}" for values in deep if (white := values.white(levels)) is not None}
    if whites:
        notes.append(f"Images of more than 8 bits per sample: {len(deep)}; {' or '.join(sorted(whites))} is white in them.")
    return RawData.of([class_name(key) for key in classes.tolist()], dict(splits), notes, given - len(kept))


def _check_numbers(origin: str, labels: Sequence[int], class_name: Callable[[int | str], str], notes: list[str]) -> None:
    """Labels that are numbers should count the classes from 0; without names for them, others are noted.

    Raises:
        DataError: for a negative label, which data sets give to images without one.
    """
    if labels[0] < 0:
        raise DataError(f"{origin}: label {labels[0]} means no label in many data sets; remove these images or name the class.")
    if labels != list(range(len(labels))) and class_name(labels[0]) == str(labels[0]):
        shown = ", ".join(map(str, labels[:5])) + (", ..." if len(labels) > 5 else "")
        notes.append(f"The labels are no count from 0 ({shown}): {len(labels)} classes are named after them.")


def _random_parts(keys: Keys, notes: list[str]) -> dict[str, Indices]:
    ids = np.unique(keys, return_inverse=True)[1].astype(np.int64)
    not_test, test = hold_out(ids, TEST_SHARE, SEED)
    train, val = hold_out(ids[not_test], VAL_SHARE / (1 - TEST_SHARE), SEED)
    notes.append("No splits given: 70 % of every class became train, 10 % val, 20 % test, drawn with a fixed seed.")
    return {"train": not_test[train], "val": not_test[val], "test": test}


def _with_validation(parts: dict[str, Indices], keys: Keys, notes: list[str]) -> dict[str, Indices]:
    train = parts["train"]
    ids = np.unique(keys[train], return_inverse=True)[1].astype(np.int64)
    kept, held_out = hold_out(ids, VAL_SHARE, SEED)
    notes.append(f"No validation split: {len(held_out)} of {len(train)} training images became one, drawn with a fixed seed.")
    return {**parts, "train": train[kept], "val": train[held_out]}


def _check_classes(
    origin: str,
    keys: dict[str, Keys],
    class_name: Callable[[int | str], str],
    notes: list[str],
    *,
    drawn: bool,
) -> None:
    """That train and test have the same classes, two or more; what validation lacks is noted.

    Args:
        drawn: whether the splits are not the user's.
    """
    sets = {split: set(np.unique(values).tolist()) for split, values in keys.items()}

    def named(classes: Iterable[int | str]) -> str:
        return _listed([class_name(key) for key in sorted(classes)])

    for split in ("val", "test"):
        if extra := sets[split] - sets["train"]:
            raise DataError(
                f"{origin}: {split} has images of {named(extra)}, train has none; add some to train or take them out."
                + _in_other_case(map(class_name, extra), map(class_name, sets["train"]))
            )
    if len(sets["train"]) < 2:
        raise DataError(f"{origin} has one class only, {named(sets['train'])}; classification needs two or more.")
    absent = sets["train"] - sets["test"]
    if absent and drawn:  # of each class with more than one image, some are test images
        verb = "has 1 image" if len(absent) == 1 else "have 1 image each"
        refusal = (
            f"{origin}: {named(absent)} {verb}, too few to be divided into train, validation and test; add images, three or more "
            f"in each class, or take the class{'' if len(absent) == 1 else 'es'} out."
        )
        raise DataError(" ".join([refusal, *flaws_of(notes)]))
    if absent:
        raise DataError(
            f"{origin}: train has images of {named(absent)}, test has none; add some to test or take them out of train."
        )
    if absent := sets["train"] - sets["val"]:
        notes.append(f"Not in val: {named(absent)}.")


def _in_other_case(strange: Iterable[str], known: Iterable[str]) -> str:
    """A hint on training classes that differ from ``strange`` ones by capital letters alone; empty where there are none."""
    forms = {name.casefold() for name in strange}
    alike = sorted(name for name in known if name.casefold() in forms)
    return f" In train there is {quoted(alike)}: capital letters count, so write each class in one way." if alike else ""


def _listed(names: Sequence[str]) -> str:
    """``classes 'a', 'b' and 7 more``."""
    return f"class{'es' if len(names) > 1 else ''} {quoted(names)}"
