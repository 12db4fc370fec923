"""Feature maps of chosen blocks: which pixel is which token, what is left out, and what they do not depend on.

Small random models in float64, tolerance 1e-10, unless a test says otherwise.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from timm.models import SwinTransformer, VisionTransformer
from timm.models.eva import Eva
from torch import Tensor

from vpbench.backbones.base import Backbone
from vpbench.backbones.family import adapter_for
from vpbench.core.errors import UnsupportedError
from vpbench.interface import Method
from vpbench.methods.ivpt import IVPT
from vpbench.methods.linear import Linear
from vpbench.methods.vpt import VPT
from vpbench.models.prompted import PromptedModel

DEPTH, WIDTH, BLOCKS = 4, 48, (0, 1, 3)
VIT: dict[str, Any] = {"img_size": 32, "patch_size": 8, "embed_dim": WIDTH, "depth": DEPTH, "num_heads": 3, "num_classes": 0}
X = torch.randn(2, 3, 32, 32, dtype=torch.double, generator=torch.Generator().manual_seed(0))


def vit(**options: Any) -> Backbone:
    torch.manual_seed(7)
    return adapter_for(VisionTransformer(**{**VIT, **options}).double())


def swin() -> Backbone:
    torch.manual_seed(7)
    sizes: dict[str, Any] = {"img_size": 64, "patch_size": 4, "embed_dim": 24, "depths": (1, 1, 2), "num_heads": (2, 2, 4)}
    return adapter_for(SwinTransformer(**sizes, window_size=4, num_classes=0).double())


def eva() -> Backbone:
    torch.manual_seed(7)
    return adapter_for(Eva(**VIT, use_rot_pos_emb=True, use_abs_pos_emb=True, global_pool="token").double())


def prompted(adapter: Backbone, method: type[Method[Any]] = Linear, **options: Any) -> Any:
    torch.manual_seed(0)
    return PromptedModel(adapter, method(method.Config(**options), adapter.shape, 5), 5).double().eval()


def same(first: Tensor, second: Tensor) -> None:
    torch.testing.assert_close(first, second, rtol=0, atol=1e-10)


@pytest.mark.parametrize("build", [vit, eva])
@pytest.mark.parametrize("normed", [False, True])
def test_maps_are_timm_s_intermediates(build: Any, normed: bool) -> None:
    model = prompted(build())
    found = model.feature_maps(X, BLOCKS, normed=normed)
    expected = model.backbone.timm_model.forward_intermediates(X, indices=list(BLOCKS), intermediates_only=True)
    for one, other in zip(found[:-1], expected[:-1], strict=True):
        same(one, other)
    last = model.backbone.timm_model.forward_intermediates(X, indices=[DEPTH - 1], norm=normed, intermediates_only=True)
    same(found[-1], last[0])


def test_maps_of_a_swin_are_the_outputs_of_its_stages() -> None:
    model, images = prompted(swin()), torch.randn(2, 3, 64, 64, dtype=torch.double)
    found = model.feature_maps(images, (0, 1, 3))
    assert [tuple(each.shape) for each in found] == [(2, 24, 16, 16), (2, 48, 8, 8), (2, 96, 4, 4)]
    expected = model.backbone.timm_model.forward_intermediates(images, intermediates_only=True)
    for one, other in zip(found, expected, strict=True):
        same(one, other)
    with pytest.raises(UnsupportedError, match="behind the last stage"):
        model.backbone.final_norm(0, model.backbone.embed(images))


@pytest.mark.parametrize("length", [1, 5])
def test_one_patch_is_one_pixel(length: int) -> None:  # S1: with blocks that do nothing
    model = prompted(vit(), VPT, prompt_length=length)
    for block in model.backbone.timm_model.blocks:
        for layer in (block.attn.proj, block.mlp.fc2):
            torch.nn.init.zeros_(layer.weight)
            torch.nn.init.zeros_(layer.bias)
    torch.nn.init.zeros_(model.backbone.timm_model.pos_embed)
    plain = torch.zeros(1, 3, 32, 32, dtype=torch.double)
    changed = plain.clone()
    changed[..., 8:16, 24:32] = 1  # the patch in row 1 and column 3
    for before, after in zip(model.feature_maps(plain, BLOCKS), model.feature_maps(changed, BLOCKS), strict=True):
        assert before.shape == (1, WIDTH, 4, 4)
        assert (before != after).any(1)[0].nonzero().tolist() == [[1, 3]]


def test_no_links_is_vpt_deep() -> None:  # S2: Gamma = 0
    deep = prompted(vit(), VPT, prompt_length=3)
    linked = prompted(vit(), IVPT, prompt_length=3, ar="none", da_init="zero")
    with torch.no_grad():
        linked.own.prompts.copy_(deep.own.prompts)
    for one, other in zip(deep.feature_maps(X, BLOCKS), linked.feature_maps(X, BLOCKS), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("deep", [True, False])
def test_what_prompts_do_not_change(deep: bool) -> None:  # S3, S4
    model = prompted(vit(), VPT, prompt_length=4, deep=deep)
    before = model.feature_maps(X, BLOCKS)
    with torch.no_grad():
        model.own.prompts[0] = model.own.prompts[0][[2, 0, 3, 1]]  # another order
        model.own.prompts[0, 1] += 0.7  # the same number on all channels: layer norm removes it
    for one, other in zip(before, model.feature_maps(X, BLOCKS), strict=True):
        same(one, other)


def test_prompts_act_on_their_block_and_later_ones() -> None:  # S5
    model = prompted(vit(), VPT, prompt_length=4)
    before = model.feature_maps(X, BLOCKS)
    sum(each.square().sum() for each in before).backward()  # type: ignore[union-attr]
    assert (model.own.prompts.grad.flatten(1).norm(dim=1) > 0).all()
    with torch.no_grad():
        model.own.prompts[-1] += torch.randn_like(model.own.prompts[-1])
    after = model.feature_maps(X, BLOCKS)
    assert torch.equal(before[0], after[0]) and torch.equal(before[1], after[1])
    assert not torch.allclose(before[2], after[2])


def test_cheaper_blocks_give_equal_maps() -> None:
    model = prompted(vit(), VPT, prompt_length=4)
    cheap = model.feature_maps(X, BLOCKS, normed=True)
    model.backbone.skip_unused = False
    for one, other in zip(cheap, model.feature_maps(X, BLOCKS, normed=True), strict=True):
        same(one, other)


def test_frozen_prefix_and_blocks_that_are_not_read() -> None:
    late = prompted(vit(), VPT, prompt_length=2, start=2)
    plain = prompted(vit())
    assert torch.equal(late.feature_maps(X, (0, 1))[1], plain.feature_maps(X, (0, 1))[1])
    assert not torch.allclose(late.feature_maps(X, (2,))[0], plain.feature_maps(X, (2,))[0])


def test_images_of_another_size() -> None:
    adapter = vit()
    model, wide = prompted(adapter, VPT, prompt_length=2), torch.randn(1, 3, 24, 48, dtype=torch.double)
    found = model.feature_maps(wide, BLOCKS)
    assert [tuple(each.shape) for each in found] == [(1, WIDTH, 3, 6)] * 3
    same(model.feature_maps(X, BLOCKS)[0], model.feature_maps(X, BLOCKS)[0])
    assert adapter.timm_model.patch_embed.img_size == (32, 32)
    odd = torch.randn(1, 3, 30, 43, dtype=torch.double)
    padded = torch.nn.functional.pad(odd, (0, 5, 0, 2))  # at the right and below, to a multiple of the patch
    for one, other in zip(model.feature_maps(odd, BLOCKS), model.feature_maps(padded, BLOCKS), strict=True):
        assert one.shape == (1, WIDTH, 4, 6) and torch.equal(one, other)
    with pytest.raises(UnsupportedError, match="30 x 43 pixels do not divide into patches of 8"):
        adapter.embed(odd)


@pytest.mark.parametrize("build", [swin, eva])
def test_families_with_one_size(build: Any) -> None:
    with pytest.raises(UnsupportedError, match="predict in windows of that size"):
        build().embed(torch.randn(1, 3, 96, 48, dtype=torch.double))
