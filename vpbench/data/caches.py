"""What vpbench keeps in the user's cache folder and can make again: decoded images, and activations of frozen blocks."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from vpbench.core.errors import UsageError
from vpbench.core.sealed_cache import SealedCache
from vpbench.core.user_folders import cache_root

LIMIT_VARIABLE = "VPBENCH_ACTIVATIONS"
DEFAULT_LIMIT = "20G"
KINDS = ("images", "activations")
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


@dataclass(frozen=True)
class CacheUse:
    """What a cache takes.

    Attributes:
        kind: one of :data:`KINDS`.
        folder: where it lies.
        entries: data splits of images, batches of activations.
        size: bytes.
        limit: bytes; None without one.
    """

    kind: str
    folder: Path
    entries: int
    size: int
    limit: int | None = None


def activation_store() -> SealedCache:
    """The files of activations, in ``activations`` below the cache folder; at most :func:`activation_limit` bytes of them."""
    return SealedCache(cache_root() / "activations", activation_limit())


def activation_limit() -> int:
    """Bytes that activations may take: ``VPBENCH_ACTIVATIONS`` (``500M``, ``20G``, ``0`` for none), by default 20 GiB.

    Raises:
        UsageError: for another value.
    """
    given = os.environ.get(LIMIT_VARIABLE) or DEFAULT_LIMIT
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?([KMGT]?)(?:i?B)?", given.strip(), re.IGNORECASE)
    if not found:
        raise UsageError(f"{LIMIT_VARIABLE}={given}: a size such as 500M or 20G, or 0 to keep no activations.")
    return int(float(found[1]) * _UNITS[found[2].upper()])


def cache_use() -> list[CacheUse]:
    """What each cache takes at present."""
    store, images = activation_store(), list(_image_folders())
    files = store.files()
    return [
        CacheUse("images", cache_root(), len(images), sum(map(_size, images))),
        CacheUse("activations", store.folder, len(files), sum(file.size for file in files), store.limit),
    ]


def clear_cache(kind: str) -> int:
    """Remove a cache of one kind, and return the bytes that are free now. Runs under way go on: what they have mapped stays."""
    if kind == "activations":
        return activation_store().evict(0)
    freed = 0
    for folder in _image_folders():
        size = _size(folder)
        shutil.rmtree(folder, ignore_errors=True)
        freed += size if not folder.exists() else 0
    return freed


def _image_folders() -> Iterator[Path]:
    root = cache_root()
    return (file.parent for file in sorted(root.glob("*/complete.json"))) if root.is_dir() else iter(())


def _size(folder: Path) -> int:
    """Bytes of its files; what another process removes meanwhile counts as nothing."""
    found = 0
    with suppress(OSError):
        for file in folder.iterdir():
            with suppress(OSError):
                found += file.stat().st_size
    return found
