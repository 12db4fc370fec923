"""Food-101: 101 dishes, 750 training and 250 test images each."""

from __future__ import annotations

from pathlib import Path

from vpbench.core.errors import DataError
from vpbench.data.raw import RawData
from vpbench.data.sources._listed import from_lists, members_by_folder, nested, read_lines


def read(folder: Path) -> RawData:
    """The splits of ``meta/train.txt`` and ``meta/test.txt``; images lie in ``images/apple_pie/``.

    Args:
        folder: the data set's folder, or one with a folder ``food-101`` in it.

    Raises:
        DataError: for files that are missing or inconsistent.
    """
    base = nested(Path(folder), "food-101")
    known = {line.strip() for line in read_lines(base / "meta" / "classes.txt")}
    lists = {split: members_by_folder(base / "meta" / f"{split}.txt", "images", ".jpg") for split in ("train", "test")}
    for split, members in lists.items():
        for path, key in members:
            if key not in known:
                raise DataError(f"{base / 'meta' / split}.txt: {path} has class '{key}', which classes.txt lacks.")
    return from_lists(base, lists, lambda key: str(key).replace("_", " "))
