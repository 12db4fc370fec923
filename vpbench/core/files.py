"""Atomic writes, and what killed processes leave of them."""

from __future__ import annotations

import os
import re
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

_PARTIAL = re.compile(r"\..+\.(?:(?P<host>[A-Za-z0-9_-]+)-)?(?P<process>\d+)\.partial(\..+)?")
_ABANDONED_S = 24 * 3600  # age of a partial file whose process cannot be asked, beyond which nobody writes it any more


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file under a temporary name beside ``path``, fsync it, and rename it to ``path``.

    Readers see the old file or the new one, never a part of it. Missing parent folders are created.

    Args:
        write: called with the temporary path, which has the suffix of ``path``.

    Raises:
        OSError: when the file cannot be written; what was at ``path`` is untouched.
    """
    # The suffix stays, because some writers choose their format by it.
    partial = path.with_name(f".{path.stem}.{this_process()}.partial{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(partial)
        with partial.open("rb") as stream:
            os.fsync(stream.fileno())
        partial.replace(path)
    finally:
        with suppress(OSError):  # where the folder cannot be written, there is nothing to remove
            partial.unlink()


def this_process() -> str:
    """``HOST-PID``, which names this process among those of all machines."""
    return f"{_host()}-{os.getpid()}"


def remove_partials(folder: Path) -> None:
    """Remove the temporary files in a folder whose writers are gone, killed on this machine; those of others after a day."""
    with suppress(OSError):
        for path in folder.glob(".*.partial*"):
            with suppress(OSError):  # another process may remove it, too
                if (name := _PARTIAL.fullmatch(path.name)) and _is_abandoned(path, name["host"], int(name["process"][:18])):
                    path.unlink()


def _is_abandoned(path: Path, host: str | None, process: int) -> bool:
    if host in (None, _host()) and os.name == "posix":
        return not _is_running(process)
    return time.time() - path.stat().st_mtime > _ABANDONED_S


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)  # sends nothing
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True


def _host() -> str:
    return re.sub(r"[^A-Za-z0-9]+", "_", socket.gethostname())[:32]
