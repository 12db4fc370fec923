"""Folders of data sets: one per data set below the data root."""

from __future__ import annotations

import os
from pathlib import Path

from vpbench.core.errors import MissingDataError, UsageError
from vpbench.core.user_folders import data_folder, user_path
from vpbench.data.catalog import DatasetCard


def data_root(given: str | Path | None = None) -> Path:
    """``given``, else ``VPBENCH_DATA``, else the user's data folder; it need not exist.

    Raises:
        UsageError: for a file in its place.
    """
    chosen = given or os.environ.get("VPBENCH_DATA")
    root = user_path(chosen) if chosen else data_folder()
    if root.is_file():
        raise UsageError(f"{root} is a file; --data-root, or VPBENCH_DATA, names a folder.")
    return root


def find_folder(card: DatasetCard, root: Path) -> Path | None:
    """The data set's folder below ``root``, or None if there is none."""
    return next((root / name for name in card.folders if (root / name).is_dir()), None)


def dataset_folder(card: DatasetCard, root: Path) -> Path:
    """The data set's folder below ``root``.

    Raises:
        MissingDataError: when it does not exist; the message has the instructions of the card.
    """
    found = find_folder(card, root)
    if found is None:
        names = " or ".join(f"'{name}'" for name in card.folders)
        raise MissingDataError(
            f"{card.title} is not in {root}: no folder {names}. {card.how_to_get} "
            "Data elsewhere: --data-root FOLDER or VPBENCH_DATA; 'vpbench data doctor' shows what is there."
        )
    return found
