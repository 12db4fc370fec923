"""The user's folders, where there is a home folder and where there is none."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from vpbench.core import user_folders
from vpbench.core.errors import UsageError
from vpbench.core.user_folders import cache_root, data_folder, user_path


@pytest.fixture
def homeless(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """No HOME, and a user that the system does not know, as in many containers; the folder for temporary files."""
    pwd = pytest.importorskip("pwd", reason="only Unix has a list of users")

    def nobody(number: int) -> None:
        raise KeyError(number)

    for name in [name for name in os.environ if name.startswith("XDG_")] + ["HOME", "VPBENCH_CACHE", "VPBENCH_DATA"]:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", nobody)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_no_home_folder(homeless: Path) -> None:
    own = homeless / f"vpbench-{os.getuid()}"
    assert (cache_root(), data_folder()) == (own, own / "datasets")
    assert own.stat().st_mode & 0o777 == 0o700
    with pytest.raises(UsageError, match="~/images: nobody knows a home folder for its ~ here; write the whole path"):
        user_path("~/images")


def test_somebody_elses_temporary_folder(homeless: Path) -> None:
    (homeless / "other").mkdir()
    (homeless / f"vpbench-{os.getuid()}").symlink_to(homeless / "other")
    with pytest.raises(UsageError, match="is not yours: set VPBENCH_CACHE and VPBENCH_DATA"):
        cache_root()


def test_home_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("VPBENCH_CACHE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_root() == user_folders.platformdirs.user_cache_path("vpbench")
    assert user_path("~/a") == tmp_path / "a"
    monkeypatch.setenv("VPBENCH_CACHE", "~/mine")
    assert cache_root() == tmp_path / "mine"
