"""Who is working on which run: a lock per run that the operating system drops when its process ends, however it ends.

``FOLDER/_claims/<run_id>.lock`` is there while a process works on the run. ``<run_id>.json`` beside it says who.
"""

from __future__ import annotations

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

GRID, DATA, STORE = "grid-", "data-", "store-"  # how the names of locks begin that are for no run
COMPACTING = f"{STORE}compacting"  # held by the one process that may write or remove files of many rows
PATIENCE = 0.3  # seconds; 'vpbench status' holds a lock for a moment when it looks whether it is held


class Claims:
    """The claims of a results folder.

    Args:
        folder: ``FOLDER/_claims``; need not exist.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @contextmanager
    def claim(self, run_id: str, **about: Any) -> Iterator[bool]:
        """Whether the run is ours while the block runs; False when another process has it.

        Args:
            about: what :meth:`held` tells others.

        Raises:
            StoreError: when the lock's file cannot be made.
        """
        lock, note = self._lock(run_id), self.folder / f"{run_id}.json"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=PATIENCE)
        except Timeout:
            yield False
            return
        except OSError as error:
            raise StoreError(
                f"{self.folder} cannot be written: {error.strerror or error}. Free space or choose --results FOLDER."
            ) from error
        try:
            with suppress(OSError):  # the note is for people; without it the claim holds as well
                note.write_text(json.dumps({"pid": os.getpid(), "host": socket.gethostname(), **about}))
            yield True
        finally:
            for path in (note, Path(lock.lock_file)):  # while the lock is held, so that nobody else's is removed
                with suppress(OSError):
                    path.unlink()
            lock.release()

    @contextmanager
    def alone(self, name: str) -> Iterator[None]:
        """Let one process after the other into the block. Where no lock can be had, all of them enter."""
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
        """Tell others, while the block runs, of all runs that a command is going to do: by their ids, what their time depends on
        (``vpbench.execution.expected_time.Work``)."""
        name = f"{GRID}{socket.gethostname()}-{os.getpid()}"
        with self.claim(name, since=datetime.now(UTC).isoformat(), runs=runs):
            yield

    def grids(self) -> list[dict[str, Any]]:
        """What :meth:`grid` tells of the commands at work."""
        return [about for name, about in self._all_held().items() if name.startswith(GRID)]

    def held(self) -> dict[str, dict[str, Any]]:
        """The runs that some process works on now, by run id, with what it says about itself."""
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
        return FileLock(self.folder / f"{name}.lock")
