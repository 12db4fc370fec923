"""A folder of files with checksums: whole or absent, and never more than its limit."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vpbench.core.sealed_cache import SealedCache


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
