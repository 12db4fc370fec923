"""A tiny backbone for measuring."""

from __future__ import annotations

import pytest

from vpbench.backbones.named import resolve_backbone
from vpbench.spec.run_spec import BackboneSpec


@pytest.fixture(scope="session")
def tiny() -> BackboneSpec:
    """vit-nano's architecture at 32 px: width 192, depth 6, 3 heads, 16 patches of 8 px."""
    return resolve_backbone("vit-nano", "random", image_size=32)
