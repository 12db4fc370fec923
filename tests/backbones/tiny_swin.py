"""Tiny Swin Transformers of every build that timm's class offers."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from timm.models import SwinTransformer
from torch import Tensor

SIZES: dict[str, Any] = {
    "img_size": 32, "patch_size": 4, "embed_dim": 24, "depths": (2, 2), "num_heads": (2, 3), "window_size": 4, "num_classes": 0,
}  # fmt: skip

VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "padded windows": {"img_size": 56},  # grids of 14 and 7 patches: windows are padded, and so is merging
    "padded merging": {"img_size": 36},
    "one window": {"window_size": 8},
    "three stages": {"depths": (1, 2, 1), "num_heads": (2, 3, 4), "img_size": 64},
    "masks for any size": {"strict_img_size": False, "img_size": 56},
    "windows larger than the map": {"always_partition": True, "window_size": 8},
    "wide heads": {"head_dim": 16},
    "no query, key and value bias": {"qkv_bias": False},
    "dropout everywhere": {"drop_rate": 0.5, "proj_drop_rate": 0.5, "attn_drop_rate": 0.5, "drop_path_rate": 0.5},
    "one channel": {"in_chans": 1},
    "patches of 2": {"patch_size": 2},
}


def tiny_swin(seed: int = 0, **build: Any) -> SwinTransformer:
    """A Swin in evaluation mode none of whose tensors is at a value that hides a mistake, such as 0 or 1."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        swin = SwinTransformer(**{**SIZES, **build})
    if 2 * swin.layers[1].blocks[0].input_resolution[0] < swin.patch_embed.grid_size[0]:
        pytest.skip(f"timm {timm.__version__} halves odd maps wrongly, and vpbench refuses them there")
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in swin.parameters():
            tensor.add_(torch.randn(tensor.shape, generator=generator), alpha=0.15)
    swin.eval()
    return swin


def images(swin: SwinTransformer, count: int = 2) -> Tensor:
    """Normalised images for a Swin."""
    embed = swin.patch_embed
    return torch.randn(count, embed.proj.in_channels, *embed.img_size, generator=torch.Generator().manual_seed(1))
