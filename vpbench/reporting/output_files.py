"""Files of a report."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from vpbench.core import files
from vpbench.core.errors import UsageError


def write_whole(path: Path, write: Callable[[Path], object]) -> Path:
    """Let ``write`` fill a temporary file beside ``path``, then give it its name.

    Raises:
        UsageError: when the file cannot be written there.
    """
    try:
        files.write_atomically(path, write)
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror or error}. Choose another place with --out.") from error
    return path
