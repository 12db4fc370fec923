"""A transformer as wide as ViT-Tiny with a third of its blocks, which timm makes by name."""

from __future__ import annotations

from typing import Any

from timm.models import VisionTransformer, register_model

DEPTH = 4


@register_model
def vpbench_four_blocks(img_size: int = 64, num_classes: int = 0, patch_size: int = 16, **_: Any) -> VisionTransformer:
    return VisionTransformer(img_size, patch_size, embed_dim=192, depth=DEPTH, num_heads=3, num_classes=num_classes)
