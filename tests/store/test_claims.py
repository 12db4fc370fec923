"""Claims on file systems without locks, or with locks that do not work."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

import pytest

from vpbench.core.errors import StoreError
from vpbench.store.claims import Claims


@pytest.mark.filterwarnings("ignore:flock not supported")
def test_a_file_system_without_flock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """filelock then takes soft locks; before 4.1 it raised NotImplementedError, or removed the other's lock file."""

    def flock(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", flock)
    first, second = Claims(tmp_path), Claims(tmp_path)
    with first.claim("run", method="vpt") as ours:
        assert ours and second.held()["run"]["method"] == "vpt"
        with second.claim("run") as theirs:
            assert not theirs
    with second.claim("run") as theirs:
        assert theirs
    with first.alone("data-x"):
        pass
    assert not first.held() and not list(tmp_path.iterdir())


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_locks_that_a_file_system_lacks_are_no_full_disk(code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As NFS without its lock service."""

    def flock(descriptor: int, operation: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", flock)
    claims = Claims(tmp_path / "_claims")
    with pytest.raises(StoreError, match="has no file locks") as caught, claims.claim("run"):
        pass
    message = str(caught.value)
    assert str(tmp_path / "_claims") in message and os.strerror(code) in message and "--results FOLDER" in message
    assert "Free space" not in message and "\n" not in message
    with claims.alone("data-x"):  # what need not exclude others goes on
        pass
    assert not claims.held()


def test_a_full_disk_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def mkdir(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    claims = Claims(tmp_path / "_claims")
    monkeypatch.setattr(Path, "mkdir", mkdir)
    with pytest.raises(StoreError, match="Free space"), claims.claim("run"):
        pass
