"""What the classifier reads, against means written out by hand."""

from __future__ import annotations

import pytest
import torch
from tiny_evas import ROPE, tiny_eva
from tiny_evas import images as eva_images
from tiny_vits import images, tiny_vit
from torch import Tensor, nn

from vpbench.backbones.family import adapter_for
from vpbench.backbones.vit import ViTAdapter
from vpbench.core.errors import UnsupportedError
from vpbench.interface import Tokens

FRONT, PROMPTS = 1, 3


def prompted(adapter: ViTAdapter, x: Tensor) -> Tokens:
    """A sequence behind the last block, with prompts far from everything else."""
    tokens = adapter.embed(x).with_prompts(10 + torch.randn(PROMPTS, 48))
    for index in range(2):
        tokens = adapter.block(index, tokens)
    return tokens


def normed(values: Tensor, norm: nn.Module) -> Tensor:
    centred = values - values.mean(-1, keepdim=True)
    scaled: Tensor = centred / (centred.square().mean(-1, keepdim=True) + norm.eps).sqrt()
    return scaled * norm.weight + norm.bias


def test_mae_mean_of_patches_then_norm() -> None:
    adapter = ViTAdapter(tiny_vit(global_pool="avg"))
    tokens = prompted(adapter, images(adapter.vit))
    expected = normed(tokens.x[:, FRONT + PROMPTS :].sum(1) / 16, adapter.vit.fc_norm)
    torch.testing.assert_close(adapter.pool(tokens), expected, rtol=1e-4, atol=1e-5)


def test_mae_released_mean_of_prompts_and_patches_then_norm() -> None:
    vit = tiny_vit(global_pool="avg")
    adapter, plain = ViTAdapter(vit, pool_prompts=True), ViTAdapter(vit)
    tokens = prompted(adapter, images(vit))
    expected = normed(tokens.x[:, FRONT:].sum(1) / (16 + PROMPTS), vit.fc_norm)
    torch.testing.assert_close(adapter.pool(tokens), expected, rtol=1e-4, atol=1e-5)
    assert (adapter.pool(tokens) - plain.pool(tokens)).abs().max() > 0.01
    assert torch.equal(adapter(images(vit)), vit(images(vit)))  # without prompts both are timm's


def test_released_readout_on_rotary_embeddings() -> None:
    adapter = adapter_for(tiny_eva(**ROPE), pool_prompts=True)
    assert isinstance(adapter, ViTAdapter)
    tokens = prompted(adapter, eva_images())
    expected = normed(tokens.x[:, FRONT:].sum(1) / (16 + PROMPTS), adapter.vit.fc_norm)
    torch.testing.assert_close(adapter.pool(tokens), expected, rtol=1e-4, atol=1e-5)


def test_moco_norm_of_the_class_token() -> None:
    adapter = ViTAdapter(tiny_vit())
    tokens = prompted(adapter, images(adapter.vit))
    torch.testing.assert_close(adapter.pool(tokens), normed(tokens.x[:, 0], adapter.vit.norm), rtol=1e-4, atol=1e-5)


def test_prompts_join_means_only() -> None:
    with pytest.raises(UnsupportedError, match="prompts can join a mean only, and this backbone pools by 'token'"):
        ViTAdapter(tiny_vit(), pool_prompts=True)
