"""Tiny ViTs with rotary position embeddings, of every build that timm's ``Eva`` is used in."""

from __future__ import annotations

from typing import Any

import torch
from timm.models.eva import Eva
from torch import Tensor

SIZES: dict[str, Any] = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 3, "num_classes": 0}
ROPE: dict[str, Any] = {"use_rot_pos_emb": True}
DINOV3: dict[str, Any] = {
    **ROPE, "rope_type": "dinov3", "use_abs_pos_emb": False, "num_reg_tokens": 4, "init_values": 1e-5,
    "use_fc_norm": False, "rope_rotate_half": True, "dynamic_img_size": True, "rope_temperature": 100,
}  # fmt: skip

VARIANTS: dict[str, dict[str, Any]] = {
    "eva02": {**ROPE, "swiglu_mlp": True, "ref_feat_shape": (16, 16), "qkv_fused": False, "scale_mlp": True},
    "eva02, class token": {**ROPE, "global_pool": "token"},
    "eva02 clip": {**ROPE, "qkv_fused": False, "swiglu_mlp": True, "scale_mlp": True, "scale_attn_inner": True},
    "eva, no rotation": {},
    "dinov3": {**DINOV3, "qkv_bias": False},
    "dinov3 with bias": DINOV3,
    "axial rope": {**ROPE, "attn_type": "rope", "no_embed_class": True, "use_abs_pos_emb": False, "global_pool": "token"},
    "mixed rope": {**ROPE, "attn_type": "rope", "rope_type": "mixed", "global_pool": "token", "no_embed_class": True},
    "unfused rope": {**ROPE, "attn_type": "rope", "qkv_fused": False},
    "perception encoder": {**ROPE, "global_pool": "map", "use_pre_transformer_norm": True, "attn_type": "rope"},
    "post-norm": {**ROPE, "use_post_norm": True},
    "bias on its own": {**ROPE, "qkv_bias": True, "scale_attn_inner": True},
}


def tiny_eva(seed: int = 0, **build: Any) -> Eva:
    """A model in evaluation mode none of whose tensors is at a value that hides a mistake, such as 0 or 1."""
    eva = Eva(**{**SIZES, **build})
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in eva.parameters():
            tensor.add_(torch.randn(tensor.shape, generator=generator), alpha=0.15)
    eva.eval()
    return eva


def images(count: int = 2) -> Tensor:
    """Normalised images."""
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(1))
