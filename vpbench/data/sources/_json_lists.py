"""VPT's split lists of the FGVC data sets: ``train.json``, ``val.json`` and ``test.json``, {image path: class id}.

Source of the format: github.com/KMnP/vpt, src/data/datasets/json_dataset.py and its README.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vpbench.core.errors import DataError
from vpbench.data.raw import SPLITS
from vpbench.data.sources._listed import Key, Members


def json_lists(folder: Path, base: Path, places: Sequence[str]) -> dict[str, list[tuple[str, Key]]] | None:
    """The three lists, or None if there are none. Class ids are kept as written: "001" in CUB, 1 elsewhere.

    Args:
        folder: the data set's folder.
        base: the folder that the archive unpacks into, below ``folder`` or the same. The lists are in either.
        places: prefixes of the paths in the lists, relative to ``base``: "", or a folder with a trailing slash. For each list the
            first prefix with which any of its images exists is used.

    Raises:
        DataError: when only some of the lists exist, or one is invalid.
    """
    home = next((place for place in (base, folder) if any((place / f"{split}.json").is_file() for split in SPLITS)), None)
    if home is None:
        return None
    lists = {split: _read(home / f"{split}.json") for split in SPLITS}
    if len({type(key) for members in lists.values() for _, key in members}) > 1:
        raise DataError(f"{home}: the lists have class ids as numbers and as text; get all three from one place.")
    return {split: _placed(base, members, places) for split, members in lists.items()}


def names_of_folders(lists: Mapping[str, Members], readable: Callable[[str], str]) -> Callable[[Key], str]:
    """Class names from the folder of the first training image."""
    folders: dict[Key, str] = {}
    for path, key in lists["train"]:
        folders.setdefault(key, Path(path).parent.name)
    return lambda key: readable(folders[key])


def names_in_order(keys: Iterable[Key], names: Sequence[str]) -> Callable[[Key], str]:
    """Class names by number, for lists that count from 0 or from 1; a class without a name gets its number."""
    start = 0 if 0 in set(keys) else 1

    def name(key: Key) -> str:
        place = int(key) - start if isinstance(key, int) else -1
        return names[place] if 0 <= place < len(names) else str(key)

    return name


def _read(file: Path) -> list[tuple[str, Key]]:
    def checked(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            seen: set[str] = set()
            twice = next(path for path, _ in pairs if path in seen or seen.add(path))  # type: ignore[func-returns-value]
            raise DataError(f"{file}: {twice} is listed twice; get the list again.")
        return found

    try:
        content = json.loads(file.read_text(encoding="utf-8-sig"), object_pairs_hook=checked)
    except FileNotFoundError as error:
        raise DataError(f"{file} is missing beside the other lists; get all three, or remove the others.") from error
    except ValueError as error:  # of the syntax, or of the encoding
        raise DataError(f"{file} is not valid JSON ({error}); get the list again, or remove all three.") from error
    if not isinstance(content, dict):
        raise DataError(f"{file} must hold {{image path: class id}}, not a {type(content).__name__}; get the list again.")
    for path, key in content.items():
        if isinstance(key, bool) or not isinstance(key, int | str):
            raise DataError(f"{file}: {path} has class id {key!r}; it must be a whole number or text.")
    return list(content.items())


def _placed(base: Path, members: Members, places: Sequence[str]) -> list[tuple[str, Key]]:
    found = (place for place in places if any((base / f"{place}{path}").is_file() for path, _ in members))
    start = next(found, places[0])
    return [(f"{start}{path}", key) for path, key in members]
