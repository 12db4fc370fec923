"""One file from an address to the disk: resumed where it was cut, and checked before it gets its name."""

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

# Answers after which the same request may succeed; all others will not change by asking again.
PASSING = (408, 425, 429, 500, 502, 503, 504)

# What is being done, bytes done, bytes in all where they are known.
OnStep = Callable[[str, int, int | None], None]


@dataclass(frozen=True)
class Patience:
    """How long to wait for a server.

    Attributes:
        timeout: seconds without an answer or a byte.
        attempts: how many in a row may bring nothing new.
        pause: seconds before the second attempt; it doubles from one to the next.
    """

    timeout: float = 30.0
    attempts: int = 4
    pause: float = 1.0


class CutError(Exception):
    """A transfer that did not come to its end and may be tried again."""


class StaleError(CutError):
    """What is on the disk is no beginning of what the server has now."""


class GoneError(DataError):
    """An address at which the file is not, or not for us."""


@dataclass(frozen=True)
class Note:
    """What lies beside a partial file: where it comes from, and which version of the file it is a part of."""

    url: str
    validator: str | None = None
    total: int | None = None

    @classmethod
    def read(cls, path: Path) -> Note | None:
        try:
            return cls(**json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):  # none there, or cut off by a full disk
            return None


@dataclass(frozen=True)
class Answer:
    """An open file at its source.

    Attributes:
        stream: its bytes from ``start`` on.
        total: bytes of the whole file, or None where the server does not say.
        validator: changes when the file does; None where the server gives no such sign.
    """

    stream: Any
    start: int
    total: int | None
    validator: str | None


def fetch(
    download: Download, target: Path, *, patience: Patience | None = None, on_step: OnStep | None = None, afresh: bool = False
) -> None:
    """Bring a file to ``target``, whose folder exists.

    Bytes go to ``target.part`` and stay there when the transfer is cut, so that the next call asks for the rest only. When
    the file has changed at its source, or the server cannot send a part, it starts again from the first byte.

    Args:
        afresh: forget what is in ``target.part``.

    Raises:
        UsageError: for an address that is not http, https or file.
        GoneError: when the file is not at its address.
        DataError: when the server fails, the disk is full, or size or checksum are not those of the card.
    """
    if urlsplit(download.url).scheme not in SCHEMES:
        raise UsageError(f"{download.url}: files are fetched from {', '.join(SCHEMES)} addresses only; correct the card.")
    patience = patience or Patience()
    part = Partial(download, target, on_step or (lambda *_: None))
    with part.writing():
        if afresh:
            part.drop()
        _receive(part, patience)
        part.finish()


def _receive(part: Partial, patience: Patience) -> None:
    """Go on until all bytes are there. Attempts count anew whenever one got farther than all before."""
    failures, farthest = 0, part.size
    while not part.whole:
        try:
            part.receive(patience.timeout)
        except CutError as cut:
            failures = 0 if part.size > farthest else failures
            farthest, failures = max(farthest, part.size), failures + 1
            if failures >= patience.attempts:
                kept = f" {decimal(part.size)} are kept in {part.path}; the same command continues." if part.size else ""
                raise DataError(
                    f"{part.download.url} cannot be fetched ({cut}), tried {failures} times; try again later.{kept}"
                ) from cut
            time.sleep(patience.pause * 2 ** (failures - 1))


class Partial:
    """A file that is on its way: ``target.part`` and, beside it, a note of what it is a part of."""

    def __init__(self, download: Download, target: Path, on_step: OnStep) -> None:
        self.download, self.target, self._on_step = download, target, on_step
        self.path = target.with_name(f"{target.name}.part")
        self._note_path = target.with_name(f"{target.name}.part.json")
        self.whole = False

    @property
    def size(self) -> int:
        """Bytes that are on the disk."""
        return self.path.stat().st_size if self.path.exists() else 0

    def drop(self) -> None:
        self.path.unlink(missing_ok=True)
        self._note_path.unlink(missing_ok=True)

    def receive(self, timeout: float) -> None:
        """One request. Raises CutError when it did not bring the file to its end."""
        have, note = self._resumable()
        if note and have and have == (self.download.size or note.total):
            self.whole = True
            return
        try:
            self._go_on(have, note, timeout)
        except StaleError:
            self.drop()
            raise

    def _go_on(self, have: int, note: Note | None, timeout: float) -> None:
        with _opened(self.download.url, have, note.validator if note else None, timeout) as answer:
            if self.download.size and answer.total not in (None, self.download.size):
                raise DataError(
                    f"{self.download.url} has {answer.total} bytes, the card says {self.download.size}; "
                    "the file has changed at its source."
                )
            same = note and (have, note.validator, note.total or answer.total) == (answer.start, answer.validator, answer.total)
            if answer.start and not same:
                raise StaleError("the file changed while it was fetched")
            if not answer.start:
                self._begin(Note(self.download.url, answer.validator, answer.total))
            self._append(answer)

    def _resumable(self) -> tuple[int, Note | None]:
        """Bytes to keep and their note; none where nothing would tell whether the rest belongs to the same file."""
        note = Note.read(self._note_path)
        known = note and note.url == self.download.url and (note.validator or self.download.sha256 or self.download.md5)
        return (self.size, note) if known else (0, None)

    def _begin(self, note: Note) -> None:
        self.drop()
        self._note_path.write_text(json.dumps(asdict(note)), encoding="utf-8")

    def _append(self, answer: Answer) -> None:
        total, done = self.download.size or answer.total, answer.start
        if total is not None:
            check_room(self.target.parent, total - done, self.target.name)
        with self.path.open("ab", buffering=0) as stream:
            while block := _block(answer, BLOCK if answer.total is None else min(BLOCK, answer.total - done)):
                _write(stream, block)
                done += len(block)
                self._on_step(f"fetching {self.target.name}", done, total)
            os.fsync(stream.fileno())
        if total is not None and done < total:
            raise CutError(f"the connection ended after {done} of {total} bytes")
        self.whole = True

    def finish(self) -> None:
        """Compare with the card and give the file its name."""
        if wrong := mismatch(self.download, self.path, self._on_step):
            self.drop()
            raise DataError(
                f"{self.download.url}: the file that came has {wrong}; it was removed. Try again; "
                "if that does not help, the file has changed at its source."
            )
        self.path.replace(self.target)
        self._note_path.unlink(missing_ok=True)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Turns what the disk says into one line."""
        try:
            yield
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise DataError(
                    f"the disk is full: {self.path} has got {decimal(self.size)}, which are kept; "
                    "make room, and the same command continues."
                ) from error
            raise DataError(
                f"{error.filename or self.path} cannot be written ({error.strerror or error}); choose another --data-root."
            ) from error


def mismatch(download: Download, file: Path, on_step: OnStep | None = None) -> str:
    """How a file differs from what the card says of it, with both values; empty when it does not."""
    size = file.stat().st_size
    if download.size is not None and size != download.size:
        return f"{size} bytes, the card says {download.size}"
    wanted = {kind: value.lower() for kind in ("sha256", "md5") if (value := getattr(download, kind))}
    found = checksums(file, tuple(wanted), on_step) if wanted else {}
    return next((f"{kind} {found[kind]}, the card says {value}" for kind, value in wanted.items() if found[kind] != value), "")


def checksums(file: Path, kinds: tuple[str, ...], on_step: OnStep | None = None) -> dict[str, str]:
    """Hashes of a file, as hexadecimal digits, by ``kinds`` such as sha256."""
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
    """Raises DataError when ``needed`` bytes do not fit on the disk of ``folder`` (or of the nearest folder above it)."""
    place = next(above for above in (folder, *folder.parents) if above.exists())
    free = shutil.disk_usage(place).free
    if needed > free:
        raise DataError(
            f"{what} needs {decimal(needed)} on the disk of {folder}, {decimal(free)} are free; "
            "make room or choose another --data-root."
        )


def _block(answer: Answer, most: int) -> bytes:
    """Bytes that have arrived, ``most`` at most; none at the end. Nothing is asked of a server that has sent all."""
    try:
        block: bytes = answer.stream.read1(most) if most > 0 else b""
    except (OSError, http.client.HTTPException) as error:
        raise CutError(_reason(error)) from error
    return block


def _write(stream: Any, block: bytes) -> None:
    """All of ``block``: an unbuffered file takes as much as fits, and complains about the rest only when asked again."""
    rest = memoryview(block)
    while rest:
        rest = rest[stream.write(rest) :]


@contextmanager
def _opened(url: str, start: int, validator: str | None, timeout: float) -> Iterator[Answer]:
    """The file at ``url`` from byte ``start`` on, or from 0 where it is no longer the same or the server sends no parts."""
    if urlsplit(url).scheme == "file":
        with _open_file(url) as stream:
            state = os.fstat(stream.fileno())
            version = f"{state.st_mtime_ns}-{state.st_size}"
            begin = start if version == validator else 0
            stream.seek(begin)
            yield Answer(stream, begin, state.st_size, version)
        return
    response = _request(url, start, validator, timeout)
    with response:
        # Content-Encoding is left alone: many servers call a .tar.gz file a gzip encoding of a .tar file and send it as it is.
        length = response.headers.get("Content-Length")
        begin, total = 0, int(length) if length and length.isdecimal() else None
        if response.status == 206:
            begin, total = _range(response.headers.get("Content-Range", ""), url)
        yield Answer(response, begin, total, _validator(response.headers))


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
        raise CutError(_reason(reason)) from error


def _explain(url: str, error: urllib.error.HTTPError, start: int) -> NoReturn:
    if error.code == 416 and start:
        raise StaleError("the file at the source is shorter than what came of it") from error
    if error.code in PASSING:
        raise CutError(f"the server answers {error.code} {error.reason}") from error
    raise GoneError(f"{url} cannot be fetched: the server answers {error.code} {error.reason}.") from error


def _opener() -> urllib.request.OpenerDirector:
    """Proxies and redirects as usual, but no way from http to a local file or ftp."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler, urllib.request.UnknownHandler, urllib.request.HTTPHandler, urllib.request.HTTPSHandler,
        urllib.request.HTTPDefaultErrorHandler, urllib.request.HTTPRedirectHandler, urllib.request.HTTPErrorProcessor,
    ):  # fmt: skip
        opener.add_handler(handler())
    return opener


def _range(text: str, url: str) -> tuple[int, int | None]:
    """First byte and whole size out of ``bytes 100-199/200``."""
    found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", text.strip())
    if not found:
        raise DataError(f"{url}: the server sends a part of the file without saying which (Content-Range: '{text}').")
    return int(found[1]), None if found[2] == "*" else int(found[2])


def _validator(headers: Any) -> str | None:
    """A weak ETag promises no equal bytes, so that it is of no use here."""
    etag: str | None = headers.get("ETag")
    return etag if etag and not etag.startswith("W/") else headers.get("Last-Modified")


def _reason(error: object) -> str:
    if isinstance(error, TimeoutError):
        return "the server does not answer in time"
    return str(getattr(error, "strerror", None) or error) or type(error).__name__
