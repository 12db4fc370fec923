"""Location of the cache."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs


def cache_root() -> Path:
    """``VPBENCH_CACHE``, by default the user's cache folder."""
    chosen = os.environ.get("VPBENCH_CACHE")
    return Path(chosen).expanduser() if chosen else platformdirs.user_cache_path("vpbench")
