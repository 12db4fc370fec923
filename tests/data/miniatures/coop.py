"""CoOp's split of a data set: split_zhou_NAME.json with lists of [image path, class id, class name]."""

from __future__ import annotations

import json
from pathlib import Path

from . import Content, put

NAMES = ("abyssinian", "american_bulldog", "american_pit_bull_terrier")


def write(folder: Path, content: Content, split: str, images: str) -> None:
    """The file in ``folder`` and the images below ``folder/images``; paths have a folder per class as those of Food-101."""
    lists: dict[str, list[tuple[str, int, str]]] = {}
    for part, members in content.items():
        lists[part] = []
        for number, (label, data) in enumerate(members):
            path = f"{NAMES[label]}/{part}{number}.jpg"
            put(folder / images / path, data)
            lists[part].append((path, label, NAMES[label]))
    put(folder / split, json.dumps(lists))
