"""Folders of the user: the cache, and what ``~`` stands for. A process in a container may have no home folder."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import platformdirs

from vpbench.core.errors import UsageError


def cache_root() -> Path:
    """``VPBENCH_CACHE``, by default the user's cache folder."""
    chosen = os.environ.get("VPBENCH_CACHE")
    return user_path(chosen) if chosen else _standard(platformdirs.user_cache_path)


def data_folder() -> Path:
    """The user's folder of data sets, unless ``VPBENCH_DATA`` or an option names another."""
    return _standard(platformdirs.user_data_path) / "datasets"


def user_path(given: str | Path) -> Path:
    """A path as the user writes it, ``~`` resolved.

    Raises:
        UsageError: where there is no home folder that it could stand for.
    """
    try:
        return Path(given).expanduser()
    except RuntimeError as error:
        raise UsageError(f"{given}: nobody knows a home folder for its ~ here; write the whole path.") from error


def _standard(find: Callable[[str], Path]) -> Path:
    """The system's usual folder for vpbench; a temporary one of this user's without a home folder.

    Raises:
        UsageError: when that belongs to somebody else.
    """
    try:
        return find("vpbench").expanduser()  # an older platformdirs leaves ~ where nobody knows a home folder
    except RuntimeError:
        folder = Path(tempfile.gettempdir()) / f"vpbench-{os.getuid()}"
        folder.mkdir(mode=0o700, exist_ok=True)
        if folder.is_symlink() or folder.stat().st_uid != os.getuid():
            raise UsageError(f"there is no home folder, and {folder} is not yours: set VPBENCH_CACHE and VPBENCH_DATA.") from None
        return folder
