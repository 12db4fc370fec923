"""Fixtures for all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with real images and weights, which do not ship: ``VPBENCH_SHARED``, or ``../shared`` beside the checkout."""
    folder = Path(os.environ.get("VPBENCH_SHARED") or Path(__file__).resolve().parents[2] / "shared")
    if not folder.is_dir():
        pytest.skip(f"no real data: {folder} does not exist; set VPBENCH_SHARED")
    return folder
