"""``vpbench data get`` for one data set: download, verify, unpack, check the result."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from vpbench.core.errors import DataError, UsageError
from vpbench.data.catalog import DatasetCard, Download
from vpbench.data.doctor import Finding, examine, find_or_first
from vpbench.data.download import GoneError, OnStep, RetryPolicy, check_room, checksums, fetch, mismatch
from vpbench.data.unpack import sweep, unpack


@dataclass(frozen=True)
class Step:
    """One file of a data set.

    Attributes:
        target: path of the file.
        done: bytes on disk, complete or partial.
        complete: whether the download is complete.
    """

    download: Download
    target: Path
    done: int
    complete: bool


def plan_steps(card: DatasetCard, root: Path) -> list[Step]:
    """The files of a data set and how much of each is on disk; reads names and sizes only.

    Raises:
        DataError: when nothing can be downloaded; the message has the manual instructions.
        UsageError: for an invalid card.
    """
    if not card.downloads:
        raise DataError(f"{card.title} cannot be downloaded automatically. {card.how_to_get}".rstrip())
    folder = folder_of(card, root)
    return [_step(download, folder) for download in card.downloads]


def folder_of(card: DatasetCard, root: Path) -> Path:
    """Where downloads go.

    Raises:
        UsageError: for a card without a folder.
    """
    folder = find_or_first(card, root)
    if folder is None:
        raise UsageError(f"the card of {card.title} has downloads and no folder for them; add folders to it.")
    return folder


def _step(download: Download, folder: Path) -> Step:
    path = PurePosixPath(download.path)
    if path.is_absolute() or ".." in path.parts or not path.name:
        raise UsageError(f"{download.url}: file = '{download.path}' is no path below the data set's folder; correct the card.")
    target = folder / path
    part = target.with_name(f"{target.name}.part")
    complete = target.is_file()
    return Step(download, target, (target if complete else part).stat().st_size if complete or part.is_file() else 0, complete)


def get_dataset(
    name: str,
    card: DatasetCard,
    root: Path,
    *,
    force: bool = False,
    retries: RetryPolicy | None = None,
    on_step: OnStep | None = None,
) -> Finding:
    """Downloads a data set to its folder below ``root``. Files that are complete and correct are not downloaded again.

    Args:
        name: the data set's id.
        force: whether to download and unpack again.

    Returns:
        the result of :func:`vpbench.data.doctor.examine` afterwards.

    Raises:
        DataError: when the download fails; the message has the reason and the manual instructions.
    """
    if not force and (found := examine(name, card, root)).ready:
        return found
    steps = plan_steps(card, root)
    folder = folder_of(card, root)
    missing = sum(
        step.download.size - (0 if force else step.done) for step in steps if step.download.size and (force or not step.complete)
    )
    with _working_in(folder):
        check_room(folder, missing, card.title)
        sweep(folder)
        for step in steps:
            try:
                _download(step, folder, force, retries, on_step)
            except GoneError as error:
                raise GoneError(f"{error} {card.how_to_get}".rstrip()) from error
    return examine(name, card, root)


def _download(step: Step, folder: Path, force: bool, retries: RetryPolicy | None, on_step: OnStep | None) -> None:
    target = step.target
    if step.complete and not force:
        if wrong := mismatch(step.download, target, on_step):
            raise DataError(f"{target} has {wrong}; remove it, or fetch it again with --force.")
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        fetch(step.download, target, retries=retries, on_step=on_step, restart=force)
    if step.download.unpack:
        _unpack_once(target, folder, force, on_step)


def _unpack_once(archive: Path, folder: Path, force: bool, on_step: OnStep | None) -> None:
    """Unpacks, unless the marker beside the archive has its checksum and all its top-level files exist."""
    marker = archive.with_name(f"{archive.name}.unpacked")
    checksum = checksums(archive, ("sha256",), on_step)["sha256"]
    with suppress(OSError, ValueError, KeyError, TypeError):
        before = json.loads(marker.read_text(encoding="utf-8"))
        if not force and before["sha256"] == checksum and all((folder / name).exists() for name in before["names"]):
            return
    marker.unlink(missing_ok=True)
    names = unpack(archive, folder, on_step)
    marker.write_text(json.dumps({"sha256": checksum, "names": names}, indent=1), encoding="utf-8")


@contextmanager
def _working_in(folder: Path) -> Iterator[None]:
    """Creates and locks the folder; removes it, and those above it, if they were new and stay empty."""
    try:
        new = [place for place in (folder, *folder.parents) if not place.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder):
            try:
                yield
            finally:
                with suppress(OSError):  # one is not empty
                    for place in new:
                        place.rmdir()
    except OSError as error:
        raise DataError(
            f"{error.filename or folder} cannot be written ({error.strerror or error}); choose another --data-root."
        ) from error


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Locks the folder, because two processes would append to the same partial file; no lock where flock is missing."""
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DataError(f"another process is fetching into {folder}; wait until it has ended.") from error
        except OSError:  # a network file system without locks
            pass
        yield
    finally:
        os.close(handle)
