"""CoOp's splits of published data sets: ``split_zhou_NAME.json``, {"train": [[image path, class id, class name], ...], ...}.

Source of the format: github.com/KaiyangZhou/CoOp, datasets/oxford_pets.py (``save_split``, ``read_split``).
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from vpbench.core.errors import DataError
from vpbench.data.raw import SPLITS, RawData
from vpbench.data.sources._listed import Key, Members, from_lists, nested

WHERE = "https://github.com/KaiyangZhou/CoOp/blob/main/DATASETS.md links it"


def read(folder: Path, split: str, images: str = "", inside: tuple[str, ...] | list[str] = ()) -> RawData:
    """Training, validation and test images as the file lists them; a class is called as in the file.

    Args:
        folder: of the data set.
        split: the file, in ``folder`` or beside the images' folder.
        images: folder that the paths in the file are relative to.
        inside: folders of the archive that may be around the images, the first that is there is entered.

    Raises:
        DataError: for files that are missing or inconsistent.
    """
    base = nested(Path(folder), *inside)
    file = next((place / split for place in (base, Path(folder)) if (place / split).is_file()), base / split)
    below = f"{images}/" if images else ""
    names: dict[Key, str] = {}
    lists = {part: _members(file, part, entries, below, names) for part, entries in _content(file).items()}
    return from_lists(base, lists, lambda key: names[key])


def _content(file: Path) -> dict[str, list[Any]]:
    try:
        content = json.loads(file.read_text(encoding="utf-8-sig"))
    except FileNotFoundError as error:
        raise DataError(f"{file} is missing; {WHERE}.") from error
    except (ValueError, RecursionError) as error:  # of the syntax, or of the encoding
        raise DataError(f"{file} is not valid JSON ({error}); {WHERE}.") from error
    if not isinstance(content, dict) or not all(isinstance(content.get(part), list) for part in SPLITS):
        raise DataError(f"{file} must hold the lists {', '.join(SPLITS)}; {WHERE}.")
    return {part: content[part] for part in SPLITS}


def _members(file: Path, part: str, entries: list[Any], below: str, names: dict[Key, str]) -> Members:
    """Paths and class ids of one list; what classes are called is added to ``names``."""
    members: list[tuple[str, Key]] = []
    for entry in entries:
        match entry:
            case [str(path), int(key), str(name)] if not isinstance(key, bool):
                pass
            case _:
                raise DataError(f"{file}: {json.dumps(entry)} of {part} is not [image path, class id, class name]; {WHERE}.")
        if names.setdefault(key, name) != name:
            raise DataError(f"{file}: class {key} is called '{names[key]}' and, for {path} of {part}, '{name}'; {WHERE}.")
        members.append((f"{below}{path}", key))
    if twice := [path for path, times in Counter(path for path, _ in members).items() if times > 1]:
        raise DataError(f"{file}: {twice[0]} is in the {part} list more than once; {WHERE}.")
    return members
