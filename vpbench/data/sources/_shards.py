"""The parquet files of a folder, as the Hugging Face hub lays them out."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from vpbench.core.errors import DataError
from vpbench.data.raw import SPLITS
from vpbench.data.sources._image_files import is_hidden
from vpbench.data.sources._split_names import split_of

_SHARD = re.compile(r"(?P<name>.+?)-(?P<number>\d+)-of-(?P<count>\d+)(-[0-9a-f]+)?")


@dataclass(frozen=True)
class Shards:
    """Files by ``train``, ``val`` and ``test``, each list in order; ``left_out`` are files of other splits."""

    files: dict[str, list[Path]]
    left_out: list[Path]


def find_shards(root: Path) -> Shards | None:
    """Files such as ``data/train-00000-of-00002.parquet`` or ``train/0000.parquet`` in a folder; None if there are none.

    They lie in ``root``, or one or two folders below it.

    Raises:
        DataError: for several configurations of a data set beside each other, or a shard that is missing.
    """
    found = next((files for depth in ("*", "*/*", "*/*/*") if (files := _parquet_files(root, depth))), [])
    splits: dict[str, list[Path]] = defaultdict(list)
    left_out: list[Path] = []
    homes: dict[Path, None] = {}  # a set in order
    for file in found:
        split, home = _split_and_home(file, root)
        if split is None:
            left_out.append(file)
        else:
            splits[split].append(file)
            homes[home] = None
    if not splits:
        return None
    if len(homes) > 1:
        names = ", ".join(f"'{home.relative_to(root)}'" for home in homes)
        raise DataError(f"{root} holds several sets of parquet files ({names}); give one of these folders.")
    for files in splits.values():
        _check_complete(files)
    return Shards({split: splits[split] for split in SPLITS if split in splits}, left_out)


def _parquet_files(root: Path, depth: str) -> list[Path]:
    return sorted(
        file
        for file in root.glob(f"{depth}.parquet")
        if not any(is_hidden(part) for part in file.relative_to(root).parts) and file.is_file()
    )


def _split_and_home(file: Path, root: Path) -> tuple[str | None, Path]:
    """The split in the name of a file or else of its folder, and the folder that the whole set lies in."""
    shard = _SHARD.fullmatch(file.stem)
    if split := split_of(shard["name"] if shard else file.stem):
        return split, file.parent
    if file.parent != root and (split := split_of(file.parent.name)):
        return split, file.parent.parent
    return None, file.parent


def _check_complete(files: list[Path]) -> None:
    """
    Raises:
        DataError: when there are not as many shards as their names say.
    """
    by_name: dict[tuple[Path, str, str], set[int]] = defaultdict(set)
    for file in files:
        if shard := _SHARD.fullmatch(file.stem):
            by_name[file.parent, shard["name"], shard["count"]].add(int(shard["number"]))
    for (folder, name, count), numbers in by_name.items():
        if lost := sorted(set(range(int(count))) - numbers):
            more = f" (and {len(lost) - 1} more)" if len(lost) > 1 else ""
            raise DataError(
                f"{folder / f'{name}-{lost[0]:05d}-of-{count}.parquet'} is missing{more}; the copy of the data set is incomplete."
            )
