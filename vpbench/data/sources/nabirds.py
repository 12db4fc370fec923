"""NABirds: 555 kinds of North American birds, with VPT's JSON lists or the official text files."""

from __future__ import annotations

from pathlib import Path

from vpbench.data.raw import RawData
from vpbench.data.sources._bird_tables import bird_lists, class_names
from vpbench.data.sources._json_lists import json_lists
from vpbench.data.sources._listed import Key, from_lists, nested


def read(folder: Path) -> RawData:
    """The splits of ``train.json``, ``val.json`` and ``test.json`` if they exist, else the official train and test.

    Images lie in ``images/0817/``, and are called after their ids without dashes. ``classes.txt`` has 1,011 ids of a
    hierarchy, of which 555 have images; the others never become classes.

    Raises:
        DataError: for files that are missing or inconsistent.
    """
    base = nested(Path(folder), "nabirds")
    lists = json_lists(Path(folder), base, ("images/", ""))
    if lists is None:
        lists, names = bird_lists(base)
    else:
        names = class_names(base)

    def name(key: Key) -> str:
        return names.get(int(key), str(key)) if str(key).isdecimal() else str(key)

    return from_lists(base, lists, name)
