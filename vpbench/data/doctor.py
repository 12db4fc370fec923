"""Checks which data sets are on this machine and complete, and how to get or repair the others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from vpbench.core.errors import DataError, MissingDataError, UsageError, WrongCountsError, WrongSplitsError
from vpbench.data.catalog import DatasetCard
from vpbench.data.check_images import image_problems
from vpbench.data.places import find_folder
from vpbench.data.protocols import split_sha256
from vpbench.data.raw import RawData
from vpbench.data.sources import check_source, counts, expected_counts, open_dataset, read_dataset

Status = Literal["built in", "ready", "incomplete", "wrong size", "wrong splits", "wrong card", "missing"]

# Unreadable images that are listed; the others are only counted.
NAMED = 10


@dataclass(frozen=True)
class Finding:
    """State of a data set.

    Attributes:
        name: the data set's id.
        folder: where it is, or where it would be written; None if it is built in.
        detail: what is wrong and how to fix it, or the numbers of classes and images.
    """

    name: str
    status: Status
    folder: Path | None
    detail: str

    @property
    def ready(self) -> bool:
        """Whether ``vpbench run`` can use it."""
        return self.status in ("built in", "ready")


def examine(name: str, card: DatasetCard, root: Path) -> Finding:
    """Opens a data set as ``vpbench run`` does: reads lists and file sizes, decodes no image."""
    folder = find_or_first(card, root)
    try:
        if folder is None:
            check_source(card)
            return Finding(name, "built in", None, "nothing to get")
        raw = open_dataset(card, root)
    except UsageError as error:
        return Finding(name, "wrong card", folder, str(error))
    except MissingDataError:
        return Finding(name, "missing", folder, _way_to(name, card))
    except WrongCountsError as error:
        return Finding(name, "wrong size", folder, str(error))
    except WrongSplitsError as error:
        return Finding(name, "wrong splits", folder, str(error))
    except DataError as error:
        return Finding(name, "incomplete", folder, str(error))
    numbers = ", ".join(f"{len(split)} {part}" for part, split in raw.splits.items())
    return Finding(name, "ready", folder, f"{len(raw.class_names)} classes; images: {numbers}. {raw.remarks}".rstrip())


def _way_to(name: str, card: DatasetCard) -> str:
    """How a data set that is not there is got."""
    return f"vpbench data get {name}" if card.downloads else card.how_to_get


def find_or_first(card: DatasetCard, root: Path) -> Path | None:
    """Where the data set is, or where it would be written; None for one that is built in."""
    if card.path:
        return Path(card.path)
    return find_folder(card, root) or (root / card.folders[0] if card.folders else None)


@dataclass(frozen=True)
class Verification:
    """A data set compared with its card.

    Attributes:
        counts: classes and images per split, by the card's field names; empty if the data set cannot be opened.
        split_sha256: of the split list that was found.
        expected_sha256: of the card; None if not verified yet.
        decoded: number of images decoded; None if not requested.
        unreadable: an error message for each image that cannot be decoded.
        problems: all differences from the card, as sentences; empty if there are none.
        missing: how to get the data set, which is not there; empty if it is.
    """

    name: str
    folder: Path | None
    counts: dict[str, int] = field(default_factory=dict)
    split_sha256: str | None = None
    expected_sha256: str | None = None
    decoded: int | None = None
    unreadable: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    note: str = ""
    missing: str = ""

    @property
    def state(self) -> Literal["right", "wrong", "missing"]:
        """In a word."""
        return "missing" if self.missing else "wrong" if self.problems else "right"


def verify(
    name: str, card: DatasetCard, root: Path, *, images: bool = False, on_progress: Callable[[int, int], None] | None = None
) -> Verification:
    """Compares a data set with its card.

    Args:
        images: whether to decode every image.
        on_progress: called with (images decoded, total).
    """
    folder = find_or_first(card, root)
    try:
        raw = read_dataset(card, root)
    except DataError as error:
        missing = _way_to(name, card) if isinstance(error, MissingDataError) else ""
        return Verification(name, folder, expected_sha256=card.split_sha256, problems=(str(error),), missing=missing)
    found, listed = counts(raw), split_sha256(raw)
    wanted = expected_counts(card, raw)
    problems = [f"{part} is {value}, the card says {wanted[part]}" for part, value in found.items() if value != wanted[part]]
    if card.split_sha256 not in (None, listed) and not raw.val_in_train:
        problems.append(f"the split list's sha256 is {listed}, the card says {card.split_sha256}")
    bad = [str(problem) for problem in image_problems(raw, on_progress)] if images else []
    if bad:
        problems.append(f"{len(bad)} of {_total(raw)} images cannot be read")
    return Verification(
        name, folder, found, listed, card.split_sha256, _total(raw) if images else None, tuple(bad), tuple(problems), raw.remarks
    )


def _total(raw: RawData) -> int:
    return sum(len(split) for split in raw.splits.values())
