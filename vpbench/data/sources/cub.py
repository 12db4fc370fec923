"""CUB-200-2011: 200 species of birds, with VPT's JSON lists or the official text files."""

from __future__ import annotations

from pathlib import Path

from vpbench.data.raw import RawData
from vpbench.data.sources._bird_tables import bird_lists
from vpbench.data.sources._json_lists import json_lists, names_of_folders
from vpbench.data.sources._listed import Members, from_lists, nested


def read(folder: Path) -> RawData:
    """The splits of ``train.json``, ``val.json`` and ``test.json`` if they exist, else the official train and test.

    Images lie in ``images/001.Black_footed_Albatross/``; classes are called after their folders.

    Raises:
        DataError: for files that are missing or inconsistent.
    """
    base = nested(Path(folder), "CUB_200_2011")
    lists: dict[str, Members] = {**(json_lists(Path(folder), base, ("images/", "")) or bird_lists(base)[0])}
    return from_lists(base, lists, names_of_folders(lists, _species))


def _species(folder: str) -> str:
    """``001.Black_footed_Albatross`` -> ``Black footed Albatross``."""
    return folder.partition(".")[2].replace("_", " ") or folder
