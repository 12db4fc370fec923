"""Weights of timm's ``test_vit``, 64 wide and 6 deep, in every format."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models import VisionTransformer
from torch import Tensor

from vpbench.backbones.named import resolve_backbone
from vpbench.backbones.weights import fill, load_backbone
from vpbench.core.errors import WeightsError
from vpbench.core.hashing import file_sha256

NAME, SIZE = "test_vit", 32
State = dict[str, Tensor]


@cache
def source(size: int = SIZE, classes: int = 0) -> VisionTransformer:
    """The model that the files come from."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        vit = timm.create_model(NAME, img_size=size, num_classes=classes).eval()
        with torch.no_grad():
            for tensor in vit.parameters():
                tensor.add_(torch.randn_like(tensor), alpha=0.1)
    return vit


def state(**sizes: int) -> State:
    return {name: tensor.detach().clone() for name, tensor in source(**sizes).state_dict().items()}


def pictures(size: int = SIZE) -> Tensor:
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))


def features(path: Path, size: int = SIZE, patch: int | None = None) -> Tensor:
    spec = resolve_backbone(NAME, str(path), size, patch)
    assert (spec.weights, spec.sha256) == ("file", file_sha256(path))
    return load_backbone(spec)(pictures(size))


def refusal(path: Path, name: str = NAME, quick: bool = False) -> str:
    """The message with which a file is refused, from its resolution on or (``quick``) its reading: one line that names it."""
    with pytest.raises(WeightsError) as caught:
        if quick:
            fill(deepcopy(source()), path)
        else:
            load_backbone(resolve_backbone(name, str(path), SIZE))
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    return message


# --- formats


WRITERS: dict[str, Callable[[State, Path], None]] = {
    "plain.safetensors": lambda content, path: save_file(content, path),
    "plain.pth": lambda content, path: torch.save(content, path),
    "old.pth": lambda content, path: torch.save(content, path, _use_new_zipfile_serialization=False),
    "state_dict.pth.tar": lambda content, path: torch.save({"state_dict": content, "epoch": 3, "arch": NAME}, path),
    "model.bin": lambda content, path: torch.save({"model": content, "lr": 0.1}, path),
    "both.pt": lambda content, path: torch.save({"state_dict": {"model": content}}, path),
}


def google_arrays(vit: VisionTransformer) -> dict[str, np.ndarray[Any, Any]]:
    """A ViT under the names and in the layouts of Google's vision_transformer repository."""

    def array(tensor: Tensor) -> np.ndarray[Any, Any]:
        return tensor.detach().numpy().copy()

    heads, width = vit.blocks[0].attn.num_heads, vit.embed_dim
    found = {
        "embedding/kernel": array(vit.patch_embed.proj.weight.permute(2, 3, 1, 0)),
        "embedding/bias": array(vit.patch_embed.proj.bias),
        "cls": array(vit.cls_token),
        "Transformer/posembed_input/pos_embedding": array(vit.pos_embed),
        "Transformer/encoder_norm/scale": array(vit.norm.weight),
        "Transformer/encoder_norm/bias": array(vit.norm.bias),
        "head/kernel": np.zeros((width, 1000), np.float32),
        "head/bias": np.zeros(1000, np.float32),
    }
    for index, block in enumerate(vit.blocks):
        root = f"Transformer/encoderblock_{index}/"
        for ours, theirs in ((block.norm1, "LayerNorm_0"), (block.norm2, "LayerNorm_2")):
            found[f"{root}{theirs}/scale"], found[f"{root}{theirs}/bias"] = array(ours.weight), array(ours.bias)
        attention = root + "MultiHeadDotProductAttention_1/"
        for part, name in enumerate(("query", "key", "value")):
            rows = slice(part * width, (part + 1) * width)
            found[f"{attention}{name}/kernel"] = array(block.attn.qkv.weight[rows].T.reshape(width, heads, width // heads))
            found[f"{attention}{name}/bias"] = array(block.attn.qkv.bias[rows].reshape(heads, width // heads))
        found[f"{attention}out/kernel"] = array(block.attn.proj.weight.T.reshape(heads, width // heads, width))
        found[f"{attention}out/bias"] = array(block.attn.proj.bias)
        for part, layer in enumerate((block.mlp.fc1, block.mlp.fc2)):
            found[f"{root}MlpBlock_3/Dense_{part}/kernel"] = array(layer.weight.T)
            found[f"{root}MlpBlock_3/Dense_{part}/bias"] = array(layer.bias)
    return found
