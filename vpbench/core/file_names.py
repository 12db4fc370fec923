"""Names from rows, files and users as names of files: whatever they are, the file stays in its folder."""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path

from vpbench.core.errors import StoreError
from vpbench.core.hashing import digest

LONGEST = 150  # bytes, which leaves room for endings and for the names of partial files
_FORBIDDEN = frozenset('/\\:*?"<>|')  # separators, and what Windows does not allow
_LOWER = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")


def is_file_name(name: str) -> bool:
    """Whether ``name`` is a file's name on every system, which is visible, and leads to no other folder."""
    return (
        0 < len(name.encode(errors="replace")) <= LONGEST
        and name == name.strip()
        and not name.startswith(".")
        and not name.endswith(".")
        and not any(letter in _FORBIDDEN or unicodedata.category(letter).startswith("C") for letter in name)
    )


def inside(folder: Path, name: str) -> Path:
    """``folder / name``.

    Raises:
        StoreError: for a name that leads out of the folder, or is none.
    """
    if not is_file_name(name):
        raise StoreError(f"{name!r} is no name for a file in {folder}.")
    return folder / name


def file_name(text: str, *, lower: bool = False) -> str:
    """``text`` where it is a file's name, else its plain letters and a hash of the whole.

    Args:
        lower: take small letters, digits, ``_`` and ``-`` alone, as A.html and a.html are one file on some systems.
    """
    if _LOWER.fullmatch(text) if lower else is_file_name(text):
        return text
    kept = re.sub(r"[^A-Za-z0-9_-]+", "-", text.lower() if lower else text).strip("-_")[:40].rstrip("-_")
    return "-".join(filter(None, [kept, digest(text.encode(errors="backslashreplace").decode(), 8)]))
