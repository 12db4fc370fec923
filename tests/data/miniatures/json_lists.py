"""VPT's lists: {image path: class id} as train.json, val.json and test.json."""

from __future__ import annotations

import json
from pathlib import Path

from . import put

Lists = dict[str, dict[str, int | str]]


def write_lists(folder: Path, lists: Lists) -> None:
    """``lists`` maps split to image path to class id."""
    for split, members in lists.items():
        put(folder / f"{split}.json", json.dumps(members))
