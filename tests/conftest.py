"""Fixtures for all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import timm
import torch

from vpbench.backbones.vit import ViTAdapter


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with real images and weights, which do not ship: ``VPBENCH_SHARED``, or ``../shared`` beside the checkout."""
    folder = Path(os.environ.get("VPBENCH_SHARED") or Path(__file__).resolve().parents[2] / "shared")
    if not folder.is_dir():
        pytest.skip(f"no real data: {folder} does not exist; set VPBENCH_SHARED")
    return folder


@pytest.fixture(scope="session")
def vit_b16() -> ViTAdapter:
    """ViT-B/16 at 224 pixels without values, for counting."""
    with torch.device("meta"):
        return ViTAdapter(timm.create_model("vit_base_patch16_224", num_classes=0))
