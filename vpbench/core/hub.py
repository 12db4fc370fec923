"""The Hugging Face hub: names on it, the token, and its errors in one line."""

from __future__ import annotations

import errno
import logging
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from vpbench.core.errors import UsageError, VpbenchError
from vpbench.core.names import shortened

if TYPE_CHECKING:
    from huggingface_hub import HfApi

PREFIX = "hf:"
"""How a data set of the hub begins where the path of one could stand."""

TOKEN, ENDPOINT = "HF_TOKEN", "HF_ENDPOINT"

_PART = r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?"
_REPOSITORY = re.compile(f"(?:{_PART}/)?{_PART}")
_DATA = re.compile(f"{PREFIX}(?P<repository>{_REPOSITORY.pattern})(?::(?P<config>[\\w.+ -]+))?(?:@(?P<revision>[\\w./-]+))?")
# What huggingface_hub speaks HTTP through, whose errors are no OSError.
_CLIENTS = ("httpx", "httpx2", "httpcore", "httpcore2", "huggingface_hub")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_CLIENTS_LOG = "huggingface_hub.utils._http"
_OF_RETRIES = ("thrown while requesting", "Retrying in")  # parts of its lines; that of a rate limit, minutes say, is shown


def is_on_hub(path: object) -> bool:
    """Whether a data set's path means one of the hub."""
    return str(path).startswith(PREFIX)


def is_repository(name: str) -> bool:
    """Whether ``name`` can be a repository's, ``owner/name``."""
    return "/" in name and bool(_REPOSITORY.fullmatch(name)) and ".." not in name and "--" not in name


def located(path: str | Path, folder: Path | None = None) -> str:
    """An absolute path, from ``folder`` on or else from the working folder; a data set of the hub as it is."""
    if is_on_hub(path):
        return str(path)
    from vpbench.core.user_folders import user_path

    return str((folder.absolute() / user_path(path)) if folder else user_path(path).absolute())


@dataclass(frozen=True)
class HubData:
    """A data set of the hub: ``hf:owner/name``, with ``:config`` and ``@revision`` where they are given."""

    repository: str
    config: str | None = None
    revision: str | None = None

    @classmethod
    def parse(cls, text: str) -> HubData:
        """
        Raises:
            UsageError: for a text of another form.
        """
        found = _DATA.fullmatch(text)
        if not found or ".." in text:
            raise UsageError(f"'{shortened(text)}' names no data set of the Hugging Face hub: write hf:owner/name or "
                             "hf:owner/name:config, with @revision behind it for a certain version.")  # fmt: skip
        return cls(**found.groupdict())

    @property
    def is_pinned(self) -> bool:
        """Whether the revision is a commit, which never changes."""
        return self.revision is not None and bool(_COMMIT.fullmatch(self.revision))

    @property
    def name(self) -> str:
        """What tables call it: the repository's name without its owner, with the configuration."""
        own = self.repository.rpartition("/")[2]
        return f"{own}-{self.config}" if self.config and self.config != "default" else own

    def __str__(self) -> str:
        config, revision = self.config and f":{self.config}", self.revision and f"@{self.revision}"
        return f"{PREFIX}{self.repository}{config or ''}{revision or ''}"


def hub_token() -> str | Literal[False]:
    """``HF_TOKEN`` of the environment; False without one, which keeps the hub's client from looking elsewhere."""
    return os.environ.get(TOKEN, "").strip() or False


def endpoint() -> str:
    """Address of the hub."""
    return os.environ.get(ENDPOINT, "").rstrip("/") or "https://huggingface.co"


def hub_api() -> HfApi:
    """The hub's client, with the address and the token of the environment."""
    from huggingface_hub import HfApi
    from huggingface_hub.utils import disable_progress_bars  # type: ignore[attr-defined]

    if not sys.stderr.isatty():
        disable_progress_bars()  # in a log they are lines
    return HfApi(endpoint=endpoint(), token=hub_token(), library_name="vpbench")


@contextmanager
def quiet_retries() -> Iterator[None]:
    """In the block the hub's client does not write two lines for each of its retries; what they end with is the error."""
    log = logging.getLogger(_CLIENTS_LOG)

    def is_shown(record: logging.LogRecord) -> bool:
        return not any(part in record.getMessage() for part in _OF_RETRIES)

    log.addFilter(is_shown)
    try:
        yield
    finally:
        log.removeFilter(is_shown)


@contextmanager
def hub_errors(name: str, kind: type[VpbenchError], otherwise: str = "", file: str = "", ending: str = "") -> Iterator[None]:
    """Whatever the hub's client raises in the block is one line.

    Args:
        name: of the repository, for messages.
        kind: of error to raise.
        otherwise: the way out where the hub cannot be reached.
        file: that is asked for.
        ending: a sentence behind whatever is said.

    Raises:
        VpbenchError: of ``kind``; its cause is the client's.
    """
    try:
        with quiet_retries():
            yield
    except VpbenchError:
        raise
    except Exception as error:
        said = _answer(error, name, file) or _failure(error, name, otherwise)
        if said is None:
            raise
        raise kind(f"{said} {ending}".rstrip()) from error


def _answer(error: Exception, name: str, file: str) -> str | None:
    """What the hub has answered; None where it has not."""
    from huggingface_hub import errors

    if isinstance(error, errors.GatedRepoError):
        return f"{name} is gated on the hub: ask for access on {endpoint()}/{name}, and set {TOKEN}."
    if isinstance(error, errors.RevisionNotFoundError):
        return f"{name} has no such revision on {endpoint()}; correct it."
    if isinstance(error, errors.RepositoryNotFoundError):
        hidden = "to a token that may read it" if hub_token() else "if it is private"
        return f"there is no '{name}' on {endpoint()}: correct the name, or set {TOKEN} {hidden}."
    if isinstance(error, errors.EntryNotFoundError) and not isinstance(error, errors.LocalEntryNotFoundError):
        return f"{name} on {endpoint()} has no {file or 'such file'}."
    if not isinstance(error, errors.HfHubHTTPError):
        return None
    if error.response is not None and error.response.status_code in (401, 403):
        return f"{endpoint()} refuses this for {name}: set {TOKEN} to a token that may do it."
    return f"{name}: {endpoint()} answers {_first_line(error)}"


def _failure(error: Exception, name: str, otherwise: str) -> str | None:
    """Why there is no answer; None for an error that has nothing to do with the hub."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
        place = error.filename or "the cache of the hub"
        return f"{name}: {place} cannot be written ({error.strerror}); set HF_HOME to another folder."
    if isinstance(error, OSError) or type(error).__module__.partition(".")[0] in _CLIENTS:
        return f"{name}: {endpoint()} cannot be reached ({_first_line(_reason(error))}). {otherwise}".rstrip()
    return None


def _reason(error: Exception) -> BaseException:
    """What has kept the client from the hub, where it speaks of its own cache alone."""
    return error.__cause__ if type(error).__name__ == "LocalEntryNotFoundError" and error.__cause__ else error


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
