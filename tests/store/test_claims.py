"""Claims on file systems without locks."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

import pytest

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
