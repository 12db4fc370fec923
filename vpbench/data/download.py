"""Download of one file: resumable, and verified before it is renamed to its final name."""

from __future__ import annotations

import errno
import hashlib
import http.client
import json
import os
import re
import shutil
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, NoReturn
from urllib.parse import urlsplit

from rich.filesize import decimal

from vpbench.core.errors import DataError, UsageError
from vpbench.core.version import __version__
from vpbench.data.catalog import Download

SCHEMES = ("http", "https", "file")
BLOCK = 1 << 18

# HTTP statuses after which a retry may succeed.
RETRYABLE = (408, 425, 429, 500, 502, 503, 504)

# Called with a description of the step, bytes done, and total bytes or None if unknown.
OnStep = Callable[[str, int, int | None], None]


@dataclass(frozen=True)
class RetryPolicy:
    """Timeouts and retries of a download.

    Attributes:
        timeout: seconds without a response or a byte.
        attempts: maximum number of consecutive attempts without progress.
        pause: seconds before the first retry; doubles with every retry (exponential backoff).
    """

    timeout: float = 30.0
    attempts: int = 4
    pause: float = 1.0


class InterruptedTransferError(Exception):
    """A transfer ended early and may be retried."""


class StaleError(InterruptedTransferError):
    """The partial file on disk belongs to another version of the file."""


class UnavailableError(DataError):
    """A file cannot be had from its URL; a mirror may have it."""


class GoneError(UnavailableError):
    """The file does not exist at its URL, or access is denied."""


@dataclass(frozen=True)
class ResumeInfo:
    """Stored beside a partial file: URL and version of the file that it is a part of.

    Attributes:
        validator: ETag or modification time; None if the server sends none.
        total: bytes of the whole file, or None if unknown.
    """

    url: str
    validator: str | None = None
    total: int | None = None

    @classmethod
    def read(cls, path: Path) -> ResumeInfo | None:
        try:
            return cls(**json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):  # missing, or truncated by a full disk
            return None


@dataclass(frozen=True)
class Response:
    """An open file at its source.

    Attributes:
        stream: bytes from ``start`` on.
        total: bytes of the whole file, or None if unknown.
        validator: ETag or modification time, which changes with the file; None if the server sends none.
    """

    stream: Any
    start: int
    total: int | None
    validator: str | None


def fetch(
    download: Download, target: Path, *, retries: RetryPolicy | None = None, on_step: OnStep | None = None, restart: bool = False
) -> None:
    """Downloads a file to ``target``, whose folder must exist.

    Bytes are written to ``target.part`` and kept if the transfer is interrupted; the next call resumes from there. If the file
    has changed at its source, or the server does not support ranges, the download restarts. When an address does not have the
    file or does not answer, the mirrors are tried in their order.

    Args:
        restart: whether to discard ``target.part``.

    Raises:
        UsageError: for a URL that is not http, https or file.
        GoneError: when the file does not exist at its URL.
        DataError: when the server fails, the disk is full, or size or checksum differ from the card.
    """
    problems = []
    for url in (download.url, *download.mirrors):
        try:
            _fetch(download.model_copy(update={"url": url}), target, retries or RetryPolicy(), on_step, restart)
            return
        except UnavailableError as error:
            problems.append(error)
    if len(problems) > 1:
        raise type(problems[0])(" ".join(map(str, problems))) from problems[0]
    raise problems[0]


def _fetch(download: Download, target: Path, retries: RetryPolicy, on_step: OnStep | None, restart: bool) -> None:
    if urlsplit(download.url).scheme not in SCHEMES:
        raise UsageError(f"{download.url}: files are fetched from {', '.join(SCHEMES)} addresses only; correct the card.")
    part = Partial(download, target, on_step or (lambda *_: None))
    with part.writing():
        if restart:
            part.drop()
        _receive(part, retries)
        part.finish()


def _receive(part: Partial, retries: RetryPolicy) -> None:
    """Retries until the file is complete. The count of attempts is reset by progress."""
    failures, farthest = 0, part.size
    while not part.complete:
        try:
            part.receive(retries.timeout)
        except InterruptedTransferError as interruption:
            failures = 0 if part.size > farthest else failures
            farthest, failures = max(farthest, part.size), failures + 1
            if failures >= retries.attempts:
                kept = f" {decimal(part.size)} are kept in {part.path}; the same command continues." if part.size else ""
                raise UnavailableError(
                    f"{part.download.url} cannot be fetched ({interruption}), tried {failures} times; try again later.{kept}"
                ) from interruption
            time.sleep(retries.pause * 2 ** (failures - 1))


class Partial:
    """A partial download: ``target.part`` and, beside it, its :class:`ResumeInfo`."""

    def __init__(self, download: Download, target: Path, on_step: OnStep) -> None:
        self.download, self.target, self._on_step = download, target, on_step
        self.path = target.with_name(f"{target.name}.part")
        self._info_path = target.with_name(f"{target.name}.part.json")
        self.complete = False

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return self.path.stat().st_size if self.path.exists() else 0

    def drop(self) -> None:
        self.path.unlink(missing_ok=True)
        self._info_path.unlink(missing_ok=True)

    def receive(self, timeout: float) -> None:
        """One request. Raises InterruptedTransferError if the file is not complete afterwards."""
        have, info = self._resumable()
        if info and have and have == (self.download.size or info.total):
            self.complete = True
            return
        try:
            self._resume(have, info, timeout)
        except StaleError:
            self.drop()
            raise

    def _resume(self, have: int, info: ResumeInfo | None, timeout: float) -> None:
        with _opened(self.download.url, have, info.validator if info else None, timeout) as response:
            if self.download.size and response.total not in (None, self.download.size):
                raise DataError(
                    f"{self.download.url} has {response.total} bytes, the card says {self.download.size}; "
                    "the file has changed at its source."
                )
            found = (response.start, response.validator, response.total)
            same = info and (have, info.validator, info.total or response.total) == found
            if response.start and not same:
                raise StaleError("the file changed while it was fetched")
            if not response.start:
                self._begin(ResumeInfo(self.download.url, response.validator, response.total))
            self._append(response)

    def _resumable(self) -> tuple[int, ResumeInfo | None]:
        """Bytes to keep and their info; (0, None) if the version of the partial file cannot be verified."""
        info = ResumeInfo.read(self._info_path)
        known = info and info.url == self.download.url and (info.validator or self.download.sha256 or self.download.md5)
        return (self.size, info) if known else (0, None)

    def _begin(self, info: ResumeInfo) -> None:
        self.drop()
        self._info_path.write_text(json.dumps(asdict(info)), encoding="utf-8")

    def _append(self, response: Response) -> None:
        total, done = self.download.size or response.total, response.start
        if total is not None:
            check_room(self.target.parent, total - done, self.target.name)
        with self.path.open("ab", buffering=0) as stream:
            while block := _block(response, BLOCK if response.total is None else min(BLOCK, response.total - done)):
                _write(stream, block)
                done += len(block)
                self._on_step(f"fetching {self.target.name}", done, total)
            os.fsync(stream.fileno())
        if total is not None and done < total:
            raise InterruptedTransferError(f"the connection ended after {done} of {total} bytes")
        self.complete = True

    def finish(self) -> None:
        """Verifies size and checksum and renames the file."""
        if wrong := mismatch(self.download, self.path, self._on_step):
            self.drop()
            raise DataError(
                f"{self.download.url}: the downloaded file has {wrong}; it was removed. Try again; "
                "if that does not help, the file has changed at its source."
            )
        self.path.replace(self.target)
        self._info_path.unlink(missing_ok=True)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Converts OSError to DataError."""
        try:
            yield
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise DataError(
                    f"the disk is full: {decimal(self.size)} are kept in {self.path}; make room, and the same command continues."
                ) from error
            raise DataError(
                f"{error.filename or self.path} cannot be written ({error.strerror or error}); choose another --data-root."
            ) from error


def mismatch(download: Download, file: Path, on_step: OnStep | None = None) -> str:
    """How a file's size or checksum differs from the card, with both values; empty if it does not."""
    size = file.stat().st_size
    if download.size is not None and size != download.size:
        return f"{size} bytes, the card says {download.size}"
    wanted = {kind: value.lower() for kind in ("sha256", "md5") if (value := getattr(download, kind))}
    found = checksums(file, tuple(wanted), on_step) if wanted else {}
    return next((f"{kind} {found[kind]}, the card says {value}" for kind, value in wanted.items() if found[kind] != value), "")


def checksums(file: Path, kinds: tuple[str, ...], on_step: OnStep | None = None) -> dict[str, str]:
    """Hexadecimal hashes of a file, by ``kinds`` such as ``sha256``."""
    hashes = {kind: hashlib.new(kind, usedforsecurity=False) for kind in kinds}
    done, total = 0, file.stat().st_size
    with file.open("rb") as stream:
        while block := stream.read(BLOCK):
            for one in hashes.values():
                one.update(block)
            done += len(block)
            if on_step:
                on_step(f"checking {file.name.removesuffix('.part')}", done, total)
    return {kind: one.hexdigest() for kind, one in hashes.items()}


def check_room(folder: Path, needed: int, what: str) -> None:
    """Raises DataError when ``needed`` bytes do not fit on the disk of ``folder`` (or of its nearest existing parent)."""
    place = next(above for above in (folder, *folder.parents) if above.exists())
    free = shutil.disk_usage(place).free
    if needed > free:
        raise DataError(
            f"{what} needs {decimal(needed)} on the disk of {folder}, {decimal(free)} are free; "
            "make room or choose another --data-root."
        )


def _block(response: Response, most: int) -> bytes:
    """Reads up to ``most`` bytes; empty at the end. Does not read from a server that has sent everything."""
    try:
        block: bytes = response.stream.read1(most) if most > 0 else b""
    except (OSError, http.client.HTTPException) as error:
        raise InterruptedTransferError(_reason(error)) from error
    return block


def _write(stream: Any, block: bytes) -> None:
    """Writes all of ``block``: an unbuffered write may be partial on a full disk, and only the next one raises."""
    unwritten = memoryview(block)
    while unwritten:
        unwritten = unwritten[stream.write(unwritten) :]


@contextmanager
def _opened(url: str, start: int, validator: str | None, timeout: float) -> Iterator[Response]:
    """The file at ``url`` from byte ``start`` on, or from 0 if it has changed or the server does not support ranges."""
    if urlsplit(url).scheme == "file":
        with _open_file(url) as stream:
            state = os.fstat(stream.fileno())
            version = f"{state.st_mtime_ns}-{state.st_size}"
            begin = start if version == validator else 0
            stream.seek(begin)
            yield Response(stream, begin, state.st_size, version)
        return
    with _request(url, start, validator, timeout) as reply:
        # Content-Encoding is left alone: many servers call a .tar.gz file a gzip encoding of a .tar file and send it as it is.
        length = reply.headers.get("Content-Length")
        begin, total = 0, int(length) if length and length.isdecimal() else None
        if reply.status == 206:
            begin, total = _range(reply.headers.get("Content-Range", ""), url)
        yield Response(reply, begin, total, _validator(reply.headers))


def _open_file(url: str) -> BinaryIO:
    path = Path(urllib.request.url2pathname(urlsplit(url).path))
    try:
        return path.open("rb")
    except OSError as error:
        raise GoneError(f"{url} cannot be read ({error.strerror}).") from error


def _request(url: str, start: int, validator: str | None, timeout: float) -> Any:
    headers = {"User-Agent": f"vpbench/{__version__}", "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
        if validator:
            headers["If-Range"] = validator
    try:
        return _opener().open(urllib.request.Request(url, headers=headers), timeout=timeout)
    except urllib.error.HTTPError as error:
        error.close()
        _explain(url, error, start)
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        if isinstance(reason, ssl.SSLCertVerificationError):
            raise DataError(f"{url}: the server's certificate is not valid ({reason.verify_message}).") from error
        raise InterruptedTransferError(_reason(reason)) from error


def _explain(url: str, error: urllib.error.HTTPError, start: int) -> NoReturn:
    if error.code == 416 and start:
        raise StaleError("the file at the source is shorter than the partial file") from error
    if error.code in RETRYABLE:
        raise InterruptedTransferError(f"the server answers {error.code} {error.reason}") from error
    raise GoneError(f"{url} cannot be fetched: the server answers {error.code} {error.reason}.") from error


def _opener() -> urllib.request.OpenerDirector:
    """Proxies and redirects as usual, but no redirect from http to a local file or ftp."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler, urllib.request.UnknownHandler, urllib.request.HTTPHandler, urllib.request.HTTPSHandler,
        urllib.request.HTTPDefaultErrorHandler, urllib.request.HTTPRedirectHandler, urllib.request.HTTPErrorProcessor,
    ):  # fmt: skip
        opener.add_handler(handler())
    return opener


def _range(text: str, url: str) -> tuple[int, int | None]:
    """First byte and total size from ``bytes 100-199/200``."""
    found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", text.strip())
    if not found:
        raise DataError(f"{url}: the server sends a part of the file without saying which (Content-Range: '{text}').")
    return int(found[1]), None if found[2] == "*" else int(found[2])


def _validator(headers: Any) -> str | None:
    """The ETag, or else the modification time. A weak ETag does not guarantee equal bytes and is ignored."""
    etag: str | None = headers.get("ETag")
    return etag if etag and not etag.startswith("W/") else headers.get("Last-Modified")


def _reason(error: object) -> str:
    if isinstance(error, TimeoutError):
        return "the server does not answer in time"
    return str(getattr(error, "strerror", None) or error) or type(error).__name__
