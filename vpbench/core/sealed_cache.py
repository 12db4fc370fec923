"""A folder of files with checksums and a limited size: what was used longest ago is removed first."""

from __future__ import annotations

import mmap
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from vpbench.core.checksums import SEAL_LENGTH, DamagedError, sealed, unsealed
from vpbench.core.files import remove_partials, write_atomically

ENDING = ".sealed"
ROOM = 1 << 30  # bytes of a disk that a cache leaves to what cannot be computed again


@dataclass(frozen=True)
class CachedFile:
    """One file of a cache: its size in bytes, and when it was last read or written (seconds since 1970)."""

    path: Path
    size: int
    used: float


@dataclass(frozen=True)
class SealedCache:
    """What can be computed again, under the hash of everything it depends on.

    A file that cannot be read, is damaged, or cannot be written costs time only: it is as if it had never been there. Processes
    may share the folder; a file that is evicted while another process has it mapped stays readable there.

    Args:
        folder: need not exist.
        limit: bytes of all files together.
    """

    folder: Path
    limit: int

    def read(self, key: str) -> memoryview | None:
        """What was written under a key; None where there is nothing whole.

        The file is mapped into memory, copy-on-write. A process verifies the checksum once for a file that does not change.
        """
        path = self._path(key)
        try:
            with path.open("rb") as stream:
                state = os.fstat(stream.fileno())
                content = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_COPY)
            if not _is_whole(path, state.st_size, state.st_mtime_ns, state.st_ino):
                path.unlink(missing_ok=True)
                return None
            with suppress(OSError):  # of another user, in a folder that several share
                os.utime(path, ns=(time.time_ns(), state.st_mtime_ns))
        except (OSError, ValueError):  # an empty file cannot be mapped
            return None
        return memoryview(content)[SEAL_LENGTH:]

    def write(self, key: str, content: bytes) -> None:
        """Keep ``content``; not where the folder cannot be written, or less than :data:`ROOM` of the disk would stay free."""
        with suppress(OSError):
            self.folder.mkdir(parents=True, exist_ok=True)
            if shutil.disk_usage(self.folder).free >= ROOM + len(content):
                write_atomically(self._path(key), lambda partial: partial.write_bytes(sealed(content)))

    def holds(self, key: str) -> bool:
        """Whether there is a file, whole or not."""
        return self._path(key).exists()

    def files(self) -> list[CachedFile]:
        """All files, the one that was used longest ago first."""
        return sorted(self._files(), key=lambda file: file.used)

    def evict(self, limit: int | None = None) -> int:
        """Remove what was used longest ago until all files fit ``limit`` (by default the cache's own); returns bytes removed."""
        remove_partials(self.folder)
        files = self.files()
        surplus = sum(file.size for file in files) - (self.limit if limit is None else limit)
        removed = 0
        for file in files:
            if removed >= surplus:
                break
            with suppress(OSError):
                file.path.unlink()
                removed += file.size
        return removed

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}{ENDING}"

    def _files(self) -> Iterator[CachedFile]:
        with suppress(OSError), os.scandir(self.folder) as entries:
            for entry in entries:
                if entry.name.endswith(ENDING) and not entry.name.startswith("."):
                    with suppress(OSError):  # another process may have removed it
                        state = entry.stat()
                        yield CachedFile(Path(entry.path), state.st_size, max(state.st_atime, state.st_mtime))


@lru_cache(maxsize=1 << 16)
def _is_whole(path: Path, *_version: int) -> bool:
    """Whether a file is as it was written."""
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
        try:
            with unsealed(content):
                return True
        except DamagedError:
            return False
