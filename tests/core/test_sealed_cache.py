"""A folder of files with checksums: whole or absent, and never more than its limit."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from vpbench.core.sealed_cache import ROOM, SealedCache


@pytest.fixture
def cache(tmp_path: Path) -> SealedCache:
    return SealedCache(tmp_path / "cache", 1000)


def test_what_was_written_is_read(cache: SealedCache) -> None:
    assert cache.read("a") is None and not cache.holds("a")
    cache.write("a", b"content")
    found = cache.read("a")
    assert found is not None and bytes(found) == b"content" and cache.holds("a")
    found[0] = 0  # a private copy of the page
    again = cache.read("a")
    assert again is not None and bytes(again) == b"content"


@pytest.mark.parametrize("damage", ["flipped", "cut", "empty"])
def test_a_damaged_file_is_removed(cache: SealedCache, damage: str) -> None:
    cache.write("a", b"content" * 10)
    path = cache.files()[0].path
    whole = path.read_bytes()
    path.write_bytes({"flipped": whole[:-1] + b"?", "cut": whole[:-9], "empty": b""}[damage])
    assert cache.read("a") is None
    cache.write("a", b"content")
    assert bytes(cache.read("a") or b"") == b"content"


def test_what_was_used_longest_ago_goes_first(cache: SealedCache) -> None:
    for age, name in enumerate("abcd"):
        cache.write(name, bytes(300))
        path = cache.folder / f"{name}.sealed"
        os.utime(path, (1000 + age, 1000 + age))
    cache.read("a")
    cache.evict()
    assert [file.path.stem for file in cache.files()] == ["c", "d", "a"][-3:]
    assert sum(file.size for file in cache.files()) <= cache.limit
    cache.evict(0)
    assert cache.files() == []


def test_a_folder_that_cannot_be_written_costs_time_only(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    cache = SealedCache(tmp_path / "file", 1000)
    cache.write("a", b"content")
    assert cache.read("a") is None and cache.files() == [] and cache.evict() == 0


def test_a_mapped_file_survives_its_eviction(cache: SealedCache) -> None:
    cache.write("a", b"content")
    found = cache.read("a")
    cache.evict(0)
    assert found is not None and bytes(found) == b"content"


def test_a_full_disk_costs_time_only(cache: SealedCache, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is left of what did not fit, and what lay there stays."""
    cache.write("a", b"content")

    def full(path: Path, content: bytes) -> int:
        with path.open("wb") as stream:
            stream.write(content[:3])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full)
    cache.write("b", b"content")
    cache.write("a", b"content")
    assert [path.name for path in cache.folder.iterdir()] == ["a.sealed"] and cache.read("b") is None
    assert bytes(cache.read("a") or b"") == b"content"


def test_room_is_left_on_the_disk(cache: SealedCache, monkeypatch: pytest.MonkeyPatch) -> None:
    for free, is_kept in ((ROOM + 6, False), (ROOM + 7, True)):
        monkeypatch.setattr(shutil, "disk_usage", lambda folder, free=free: SimpleNamespace(free=free))
        cache.write("a", b"content")
        assert cache.holds("a") is is_kept


def test_files_of_another_user_are_read(cache: SealedCache, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only their owner may set their times."""

    def refused(*arguments: Any, **keywords: Any) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    cache.write("a", b"content")
    monkeypatch.setattr(os, "utime", refused)
    assert bytes(cache.read("a") or b"") == b"content"
