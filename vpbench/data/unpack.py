"""Safe extraction of archives: into a temporary folder, moved to its place when complete."""

from __future__ import annotations

import bz2
import errno
import gzip
import lzma
import os
import re
import shutil
import stat
import sys
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any, BinaryIO

from rich.filesize import decimal

from vpbench.core.errors import DataError
from vpbench.data.download import BLOCK, OnStep

if sys.version_info >= (3, 11, 4):
    import tarfile
else:  # tarfile without filters, such as Debian 12's
    from backports import tarfile  # type: ignore[no-redef]

SCRATCH = ".unpacking-"

# Decompression of tar archives by suffix.
TARS: dict[str, Callable[[Any], Any]] = {
    ".tar": lambda stream: stream,
    ".tar.gz": lambda stream: gzip.GzipFile(fileobj=stream),
    ".tgz": lambda stream: gzip.GzipFile(fileobj=stream),
    ".tar.bz2": bz2.BZ2File,
    ".tar.xz": lzma.LZMAFile,
}
KINDS = (".zip", *TARS)

BROKEN = (EOFError, zlib.error, lzma.LZMAError, tarfile.TarError, zipfile.BadZipFile)


class UnsafeError(DataError):
    """An archive with members outside its folder, links out of it, devices, or more bytes than fit on the disk."""


def unpack(archive: Path, folder: Path, on_step: OnStep | None = None) -> list[str]:
    """Extracts an archive below ``folder``: all of it, or nothing on errors. Files of the same name are replaced.

    Returns:
        names of the top-level files and folders of the archive.

    Raises:
        UnsafeError: for a member with an absolute path, with ``..``, a link out of the folder, a device, or more bytes than
            are free on the disk.
        DataError: for an archive of an unknown kind, a damaged or truncated one, or a full disk.
    """
    kind = next((kind for kind in KINDS if archive.name.lower().endswith(kind)), None)
    if kind is None:
        raise DataError(
            f"{archive} cannot be unpacked: its name must end with {', '.join(KINDS)}; unpack it into {folder} yourself."
        )
    try:
        with TemporaryDirectory(dir=folder, prefix=SCRATCH) as scratch, archive.open("rb") as stream:
            place = Path(scratch)
            report = _Report(archive, stream, on_step)
            if kind == ".zip":
                _unzip(stream, place, report)
            else:
                _untar(TARS[kind](stream), place, report)
            names = sorted(item.name for item in place.iterdir())
            if not names:
                raise DataError(f"{archive} holds no files; get it again with --force.")
            _move_in(place, folder)
            return names
    except UnsafeError as error:
        raise UnsafeError(f"{archive}: {error} Nothing of it was kept.") from error
    except BROKEN as error:
        raise _broken(archive, error) from error
    except (NotImplementedError, RuntimeError) as error:  # of zipfile: a compression it does not know, a password
        raise DataError(f"{archive} cannot be unpacked here ({error}); unpack it into {folder} yourself.") from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DataError(
                f"the disk is full: {archive} does not fit unpacked into {folder}; make room and try again."
            ) from error
        if error.errno is None:  # raised by bz2 and gzip for damaged content, not by the system
            raise _broken(archive, error) from error
        raise DataError(f"{error.filename or archive} cannot be unpacked ({error.strerror or error}).") from error


def sweep(folder: Path) -> None:
    """Removes partial extractions of killed processes. The caller must hold the lock on ``folder``."""
    for left in folder.glob(f"{SCRATCH}*"):
        shutil.rmtree(left, ignore_errors=True)


def _broken(archive: Path, error: Exception) -> DataError:
    return DataError(f"{archive} is damaged or truncated ({error or type(error).__name__}); get it again with --force.")


class _Report:
    """Reports progress by the position in the archive."""

    def __init__(self, archive: Path, stream: BinaryIO, on_step: OnStep | None) -> None:
        self._name, self._total, self._stream, self._on_step = archive.name, archive.stat().st_size, stream, on_step

    def __call__(self) -> None:
        if self._on_step:
            self._on_step(f"unpacking {self._name}", min(self._stream.tell(), self._total), self._total)


def _unzip(stream: BinaryIO, place: Path, report: _Report) -> None:
    with zipfile.ZipFile(stream) as opened:
        members = opened.infolist()
        for member in members:
            _check_name(member.filename)
            form = stat.S_IFMT(member.external_attr >> 16)
            if form not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise UnsafeError(f"member '{member.filename}' is a link or a device.")
        _check_size(sum(member.file_size for member in members), shutil.disk_usage(place).free)
        for member in members:
            target = place / PurePosixPath(member.filename)
            if member.is_dir():
                target.mkdir(parents=True, exist_ok=True)
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            with opened.open(member) as source, target.open("wb") as sink:
                shutil.copyfileobj(source, sink, BLOCK)
            report()


def _untar(stream: Any, place: Path, report: _Report) -> None:
    """Checks and writes members in one pass, because a compressed archive is read only once."""
    watched = _LastRead(stream)
    room, size, links = shutil.disk_usage(place).free, 0, set[str]()
    with tarfile.open(fileobj=watched, mode="r:") as opened:  # type: ignore[call-overload]
        for member in opened:
            _check_member(member, links)
            size += member.size
            _check_size(size, room)
            if member.issym():
                links.add(_plain(member.name))
            try:
                opened.extract(member, place, filter="data")
            except tarfile.FilterError as error:
                raise UnsafeError(f"{error}.") from error
            report()
        # An archive truncated between two members lacks only the block of zeros at its end.
        if len(watched.last) != tarfile.BLOCKSIZE or any(watched.last):
            raise tarfile.ReadError("its end is missing")
        while stream.read(BLOCK):  # reads to the end, where the checksum of the compression is
            pass


class _LastRead:
    """A stream that keeps the last bytes read."""

    def __init__(self, stream: Any) -> None:
        self._stream, self.last = stream, b""
        self.seek, self.tell = stream.seek, stream.tell

    def read(self, size: int = -1) -> bytes:
        self.last = self._stream.read(size)
        return self.last


def _check_name(name: str) -> None:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or re.match("[A-Za-z]:", name) or "\0" in name:
        raise UnsafeError(f"member '{name}' would be written outside of the folder.")


def _check_member(member: tarfile.TarInfo, links: set[str]) -> None:
    """Checks in addition to tarfile's data filter, which silently makes absolute names relative.

    Args:
        links: symbolic links among earlier members; nothing may be written through them.
    """
    _check_name(member.name)
    if any(str(above) in links for above in PurePosixPath(_plain(member.name)).parents):
        raise UnsafeError(f"member '{member.name}' lies behind a link.")
    if member.issym() or member.islnk():
        start = os.path.dirname(member.name) if member.issym() else ""  # noqa: PTH120 - names in an archive, not on this disk
        if member.linkname.startswith("/") or _plain(os.path.join(start, member.linkname)).startswith(".."):  # noqa: PTH118
            raise UnsafeError(f"member '{member.name}' is a link out of the folder, to '{member.linkname}'.")
        if member.islnk() and _plain(member.linkname) in links:
            raise UnsafeError(f"member '{member.name}' is a link to a link, '{member.linkname}'.")
    elif not (member.isreg() or member.isdir()):
        raise UnsafeError(f"member '{member.name}' is a device.")


def _plain(name: str) -> str:
    """Normalised path: ``a/b`` for ``./a//c/../b``."""
    return os.path.normpath(name)


def _check_size(size: int, room: int) -> None:
    if size > room:
        raise UnsafeError(
            f"unpacked it has {decimal(size)} or more, {decimal(room)} are free; make room or choose another --data-root."
        )


def _move_in(place: Path, folder: Path) -> None:
    """Moves the content of ``place`` to ``folder``, merging into existing folders."""
    for item in sorted(place.iterdir()):
        target = folder / item.name
        if item.is_dir() and not item.is_symlink() and target.is_dir():
            _move_in(item, target)
        else:
            item.replace(target)
