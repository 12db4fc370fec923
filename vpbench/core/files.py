"""Atomic writes."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file under a temporary name beside ``path``, fsync it, and rename it to ``path``.

    Readers see the old file or the new one, never a part of it. Missing parent folders are created.

    Args:
        write: called with the temporary path, which has the suffix of ``path``.

    Raises:
        OSError: when the file cannot be written; what was at ``path`` is untouched.
    """
    # The suffix stays, because some writers choose their format by it.
    partial = path.with_name(f".{path.stem}.{os.getpid()}.partial{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(partial)
        with partial.open("rb") as stream:
            os.fsync(stream.fileno())
        partial.replace(path)
    finally:
        with suppress(OSError):  # where the folder cannot be written, there is nothing to remove
            partial.unlink()
