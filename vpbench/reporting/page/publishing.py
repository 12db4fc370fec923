"""The folder of a page: replaced as a whole, and only when everything in it was written by an earlier page."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from vpbench.core.errors import UsageError

# The first line says what the file is; then the files of the page, one per line.
MARKER = ".vpbench-page"
_FIRST_LINE = "Files of a page written by vpbench report --html; the next one replaces them."


def publish(folder: Path, fill: Callable[[Path], None]) -> Path:
    """Let ``fill`` write a page into a scratch folder, then give it the name ``folder``.

    An interruption leaves what was there before. An earlier page is replaced; anything else is never deleted.

    Returns:
        the page's ``index.html``.

    Raises:
        UsageError: when ``folder`` holds a file that is not of an earlier page, or cannot be written.
    """
    target = folder.resolve()
    check_replaceable(folder)
    scratch = target.with_name(f".{target.name}.{os.getpid()}.partial")
    old = target.with_name(f".{target.name}.{os.getpid()}.old")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir()
        fill(scratch)
        names = [path.relative_to(scratch).as_posix() for path in scratch.rglob("*") if path.is_file()]
        (scratch / MARKER).write_text("\n".join([_FIRST_LINE, *sorted(names)]) + "\n", encoding="utf-8")
        check_replaceable(folder)  # drawing takes a while, and somebody may have put a file there
        _swap(scratch, target, old)
    except OSError as error:
        raise UsageError(f"{folder} cannot be written: {error.strerror or error}. Choose another folder with --html.") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return folder / "index.html"


def check_replaceable(folder: Path) -> None:
    """Fail where writing a page would delete something that is not ours.

    Raises:
        UsageError: for a file, a folder with files and no marker, or a file that the marker does not list.
    """
    if not folder.exists():
        return
    if not folder.is_dir():
        raise UsageError(f"--html {folder} is a file; a page needs a folder.")
    try:
        # A link counts as a file, so that nothing behind it is taken for ours.
        found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_symlink() or not path.is_dir()}
        lines = (folder / MARKER).read_text(encoding="utf-8").splitlines() if MARKER in found else []
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--html {folder} cannot be read: {error}. Choose another folder.") from error
    if found and lines[:1] != [_FIRST_LINE]:
        raise UsageError(f"--html {folder} is not empty and holds no earlier page: choose a new folder, or empty this one.")
    if strange := sorted(found - set(lines[1:]) - {MARKER}):
        raise UsageError(
            f"--html {folder} holds {strange[0]}, which is not of the earlier page and would be lost: "
            "move it away, or choose another folder."
        )


def _swap(new: Path, target: Path, old: Path) -> None:
    """Put ``new`` in the place of ``target``; when that fails, what was there is there again."""
    if target.exists():
        target.replace(old)
    try:
        new.replace(target)
    except OSError:
        with suppress(OSError):
            old.replace(target)
        raise
    shutil.rmtree(old, ignore_errors=True)
