"""Names of Hugging Face transformers' ViT, DeiT, ViTMAE and DINOv2, and timm's for the same tensors."""

from __future__ import annotations

import re

import torch
from torch import Tensor

SIGN = "embeddings.patch_embeddings."
DROPPED = ("pooler.", "decoder.")  # a layer behind the class token that timm's ViTs do not have, and ViTMAE's decoder

# Applied one after the other.
_NAMES = tuple(
    (re.compile(pattern), name)
    for pattern, name in (
        (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
        (r"^embeddings\.position_embeddings$", "pos_embed"),
        (r"^embeddings\.distillation_token$", "dist_token"),
        (r"^embeddings\.", ""),
        (r"^encoder\.layer\.(\d+)\.", r"blocks.\1."),
        (r"\.attention\.attention\.(query|key|value)\.", r".attn.\1."),
        (r"\.attention\.output\.dense\.", ".attn.proj."),
        (r"\.intermediate\.dense\.", ".mlp.fc1."),
        (r"\.output\.dense\.", ".mlp.fc2."),
        (r"\.layernorm_before\.", ".norm1."),
        (r"\.layernorm_after\.", ".norm2."),
        (r"\.layer_scale([12])\.lambda1$", r".ls\1.gamma"),
        (r"^layernorm\.", "norm."),
        (r"^classifier\.", "head."),
    )
)
_QUERY = re.compile(r"(?P<attention>.*\.attn)\.query\.(?P<part>weight|bias)$")


def timm_name(name: str) -> str:
    """A tensor's name in timm, or for registers and the mask token in DINOv2's own code, which timm reads."""
    for pattern, own in _NAMES:
        name = pattern.sub(own, name)
    return name


def joined(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Queries, keys and values of each block as one tensor, as timm has them."""
    found = dict(state)
    for name in state:
        match = _QUERY.match(name)
        if match is None:
            continue
        parts = [f"{match['attention']}.{word}.{match['part']}" for word in ("query", "key", "value")]
        # Parts that do not fit each other stay as they are, and are reported as surplus.
        if all(part in found for part in parts) and len({found[part].shape[1:] for part in parts}) == 1 and found[name].ndim:
            found[f"{match['attention']}.qkv.{match['part']}"] = torch.cat([found.pop(part) for part in parts])
    return found
