"""What folders, files and cells call the splits of a data set."""

from __future__ import annotations

import re

_WORDS = {
    "train": "train", "training": "train",
    "val": "val", "valid": "val", "validation": "val", "dev": "val",
    "test": "test", "testing": "test",
}  # fmt: skip
_FILLERS = frozenset({"set", "data", "dataset", "split", "images", "image", "imgs", "img", "folder"})


def split_word(name: str) -> str | None:
    """``train``, ``val`` or ``test`` for one of their usual words, in any case; else None."""
    return _WORDS.get(name.strip().lower())


def split_of(name: str) -> str | None:
    """The split in a name such as ``Training``, ``seg_train``, ``test_set`` or ``valid-images``; None where there is none."""
    first, *others = parts = re.split(r"[\s_.-]+", name.strip().lower())
    if split := _WORDS.get(parts[-1]):
        return split
    return _WORDS.get(first) if others and _FILLERS.issuperset(others) else None
