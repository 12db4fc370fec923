"""A server, a source of one more file, and a small disk."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from file_server import FileServer, serving
from published_set import SOURCE

from vpbench.data import sources


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with serving() as running:
        yield running


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A source of one more file, as a contributor adds one."""
    (tmp_path / "sources").mkdir()
    (tmp_path / "sources" / "pictures.py").write_text(SOURCE)
    monkeypatch.setattr(sources, "__path__", [*sources.__path__, str(tmp_path / "sources")])


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = shutil.which("mount") and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1000k", "tmpfs", folder], capture_output=True
    )
    if not mounted or mounted.returncode:
        pytest.skip("a full disk cannot be had here: mounting a tmpfs needs root; NOT TESTED")
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)
