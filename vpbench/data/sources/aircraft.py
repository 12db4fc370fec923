"""FGVC-Aircraft: 100 variants, in the official lists of training, validation and test images."""

from __future__ import annotations

from pathlib import Path

from vpbench.core.errors import DataError
from vpbench.data.raw import RawData
from vpbench.data.sources._listed import Key, from_lists, nested, read_lines


def read(folder: Path) -> RawData:
    """The splits of ``images_variant_train.txt``, ``images_variant_val.txt`` and ``images_variant_test.txt``, whose lines are
    ``IMAGE VARIANT``; the variants are those of ``variants.txt``, and images lie in ``images/IMAGE.jpg``.

    Args:
        folder: with these files, or with the archive's folders around them (``fgvc-aircraft-2013b/data``).

    Raises:
        DataError: for files that are missing or inconsistent.
    """
    base = nested(nested(Path(folder), "fgvc-aircraft-2013b"), "data")
    known = {line.strip() for line in read_lines(base / "variants.txt")}
    return from_lists(base, {split: _members(base / f"images_variant_{split}.txt", known) for split in ("train", "val", "test")})


def _members(file: Path, known: set[str]) -> list[tuple[str, Key]]:
    members: list[tuple[str, Key]] = []
    for line in read_lines(file):
        image, _, variant = line.strip().partition(" ")
        if variant not in known:
            raise DataError(f"{file}: image {image} has variant '{variant}', which variants.txt lacks; get the data set again.")
        members.append((f"images/{image}.jpg", variant))
    return members
