"""Claims: a file lock per run, which the operating system releases when the process ends, however it ends.

``FOLDER/_claims/<run_id>.lock`` exists while a process works on the run; ``<run_id>.json`` beside it identifies the process.
"""

from __future__ import annotations

import errno
import json
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from vpbench.core.errors import StoreError
from vpbench.core.file_names import inside

GRID, DATA, STORE = "grid-", "data-", "store-"  # prefixes of locks that are not for runs
COMPACTING = f"{STORE}compacting"  # held by the process that may write or remove compacted files
NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS)
ACQUIRE_TIMEOUT = 0.3  # seconds; 'vpbench status' holds a lock for a moment when it tests whether it is held


def _refusal(folder: Path, error: OSError) -> str:
    """What is said when a lock cannot be had."""
    reason = error.strerror or str(error)
    if error.errno in NO_LOCKS:
        return (
            f"the file system of {folder} has no file locks ({reason}), which keep two commands from doing the same run: choose "
            "--results FOLDER on another one, or have locks switched on (NFS: its lock service, and no option nolock)."
        )
    return f"{folder} cannot be written: {reason}. Free space or choose --results FOLDER."


class Claims:
    """The claims of a results folder.

    Args:
        folder: ``FOLDER/_claims``; need not exist.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @contextmanager
    def claim(self, run_id: str, **about: Any) -> Iterator[bool]:
        """Context manager: yields True and holds the run's lock, or False if another process holds it.

        Args:
            about: JSON-able information, returned by :meth:`held` in other processes.

        Raises:
            StoreError: when the lock file cannot be created.
        """
        lock, note = self._lock(run_id), inside(self.folder, f"{run_id}.json")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=ACQUIRE_TIMEOUT)
        except Timeout:
            yield False
            return
        except OSError as error:
            raise StoreError(_refusal(self.folder, error)) from error
        try:
            with suppress(OSError):  # informational; the claim is valid without it
                note.write_text(json.dumps({"pid": os.getpid(), "host": socket.gethostname(), **about}))
            yield True
        finally:
            for path in (note, Path(lock.lock_file)):  # while the lock is held, so that no other process's file is removed
                with suppress(OSError):
                    path.unlink()
            lock.release()

    @contextmanager
    def alone(self, name: str) -> Iterator[None]:
        """Context manager: a mutex between processes. Without any exclusion where locks cannot be created."""
        lock = self._lock(name)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock.acquire()
        except OSError:
            yield
            return
        try:
            yield
        finally:
            with suppress(OSError):
                Path(lock.lock_file).unlink()
            lock.release()

    @contextmanager
    def grid(self, runs: Mapping[str, Mapping[str, Any]]) -> Iterator[None]:
        """Context manager: publishes all runs that a command is going to execute.

        Args:
            runs: by run id, or any name where that is not known yet, what the time of a run depends on
                (``vpbench.planning.expected_time.Work``).
        """
        name = f"{GRID}{socket.gethostname()}-{os.getpid()}"
        with self.claim(name, since=datetime.now(UTC).isoformat(), runs=runs):
            yield

    def sweep(self) -> None:
        """Removes what killed commands have published with :meth:`grid`: locks that nobody holds."""
        for note in sorted({path.with_suffix(".json") for path in self.folder.glob(f"{GRID}*") if path.name[0] != "."}):
            lock = self._lock(note.stem)
            with suppress(Timeout, OSError):
                lock.acquire(timeout=0)
                for path in (note, Path(lock.lock_file)):
                    with suppress(OSError):
                        path.unlink()
                lock.release()

    def grids(self) -> list[dict[str, Any]]:
        """The published runs of all active commands, see :meth:`grid`."""
        return [about for name, about in self._all_held().items() if name.startswith(GRID)]

    def held(self) -> dict[str, dict[str, Any]]:
        """All claimed runs, by run id, with the information given to :meth:`claim`."""
        return {name: about for name, about in self._all_held().items() if not name.startswith((GRID, DATA, STORE))}

    def _all_held(self) -> dict[str, dict[str, Any]]:
        found: dict[str, dict[str, Any]] = {}
        for path in sorted(self.folder.glob("*.lock")):
            if self._is_held(path.stem):
                found[path.stem] = {}
                with suppress(OSError, ValueError):
                    found[path.stem] = json.loads((self.folder / f"{path.stem}.json").read_text())
        return found

    def _is_held(self, name: str) -> bool:
        lock = self._lock(name)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return True
        except OSError:
            return False
        lock.release()
        return False

    def _lock(self, name: str) -> FileLock:
        return FileLock(inside(self.folder, f"{name}.lock"))
