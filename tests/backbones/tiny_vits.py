"""Tiny vision transformers of every build that timm's class offers."""

from __future__ import annotations

from typing import Any

import torch
from timm.models import VisionTransformer
from torch import Tensor

SIZES: dict[str, Any] = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 3, "num_classes": 0}

VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "clip": {"pre_norm": True},
    "registers": {"reg_tokens": 4},
    "mean pooled": {"global_pool": "avg"},
    "mean pooled, no class token": {"global_pool": "avg", "class_token": False},
    "mean pooled, registers only": {"global_pool": "avg", "class_token": False, "reg_tokens": 2},
    "deit3": {"no_embed_class": True, "init_values": 1e-4},
    "dinov2 with registers": {"no_embed_class": True, "reg_tokens": 4, "init_values": 1e-4},
    "attention pooled": {"global_pool": "map", "class_token": False},
    "normalised queries and keys": {"qk_norm": True},
    "layer scale": {"init_values": 0.1},
    "scaled attention and mlp norms": {"scale_attn_norm": True, "scale_mlp_norm": True},
    "no position embedding": {"pos_embed": "none", "class_token": False, "global_pool": "avg"},
    "no final norm": {"final_norm": False},
    "any image size": {"dynamic_img_size": True},
    "dropout everywhere": {
        "drop_rate": 0.5,
        "pos_drop_rate": 0.5,
        "patch_drop_rate": 0.5,
        "proj_drop_rate": 0.5,
        "drop_path_rate": 0.5,
    },
    "40 px, patches of 4": {"img_size": 40, "patch_size": 4},
    "one channel": {"in_chans": 1},
}


def tiny_vit(seed: int = 0, **build: Any) -> VisionTransformer:
    """A ViT in evaluation mode none of whose tensors is at a value that hides a mistake, such as 0 or 1."""
    vit = VisionTransformer(**{**SIZES, **build})
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in vit.parameters():
            tensor.add_(torch.randn(tensor.shape, generator=generator), alpha=0.15)
    vit.eval()
    return vit


def images(vit: VisionTransformer, count: int = 2) -> Tensor:
    """Normalised images for a ViT."""
    return torch.randn(
        count, vit.patch_embed.proj.in_channels, *vit.patch_embed.img_size, generator=torch.Generator().manual_seed(1)
    )
