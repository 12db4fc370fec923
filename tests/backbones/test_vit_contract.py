"""The adapter is timm's model, bit by bit, and stays frozen."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import timm
import torch
from sweeps import some
from tiny_vits import VARIANTS, images, tiny_vit

from vpbench.backbones.vit import ViTAdapter
from vpbench.core.errors import UnsupportedError
from vpbench.interface import Method, MethodConfig
from vpbench.models.prompted import PromptedModel


@pytest.mark.parametrize("build", VARIANTS.values(), ids=VARIANTS)
@pytest.mark.parametrize("fused", [True, False], ids=["fused", "explicit"])
def test_equals_timm(build: dict[str, Any], fused: bool) -> None:
    vit = tiny_vit(**build)
    adapter = ViTAdapter(vit)
    adapter.use_fused_attention(fused)
    x = images(vit)
    expected = vit(x)
    assert torch.equal(adapter(x), expected)
    assert expected.shape == (2, adapter.feature_width)
    assert expected.std() > 0.01  # equal because both compute, not because both vanish


@pytest.mark.parametrize("build", VARIANTS.values(), ids=VARIANTS)
def test_kernels_agree(build: dict[str, Any]) -> None:
    adapter = ViTAdapter(tiny_vit(**build).double())
    x = images(adapter.vit).double()
    found = []
    for fused in (True, False):
        adapter.use_fused_attention(fused)
        assert all(module.fused_attn is fused for module in adapter.modules() if hasattr(module, "fused_attn"))
        found.append(adapter(x))
    torch.testing.assert_close(found[0], found[1], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("build", VARIANTS.values(), ids=VARIANTS)
def test_shape(build: dict[str, Any]) -> None:
    vit = tiny_vit(**build)
    adapter = ViTAdapter(vit)
    shape, tokens = adapter.shape, adapter.embed(images(vit))
    assert tokens.num_prompts == 0
    assert shape.prefix == tokens.prefix == vit.num_prefix_tokens
    assert tokens.patch_tokens.shape == (2, shape.patches, shape.width)
    assert (shape.width, shape.depth, shape.heads, shape.channels) == (48, 2, 3, vit.patch_embed.proj.in_channels)


@pytest.mark.parametrize("build", VARIANTS.values(), ids=VARIANTS)
def test_prompts_leave_pooling_alone(build: dict[str, Any]) -> None:
    adapter = ViTAdapter(tiny_vit(**build))
    tokens = adapter.embed(images(adapter.vit))
    prompted = tokens.with_prompts(torch.randn(5, 48))
    assert prompted.x.shape[1] == tokens.x.shape[1] + 5
    # Not bit by bit: without prefix tokens the two lie differently in memory, and a mean adds in that order.
    torch.testing.assert_close(adapter.pool(prompted), adapter.pool(tokens), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("build", some(VARIANTS.values(), 6), ids=VARIANTS)
def test_frozen_in_every_mode(build: dict[str, Any]) -> None:
    adapter = ViTAdapter(tiny_vit(**build))
    model = PromptedModel(adapter, Method(MethodConfig(), adapter.shape, 5), 5)
    x = images(adapter.vit)
    expected = adapter.vit(x)
    for mode in (model.train(), model.eval(), model.train(True)):
        assert not any(module.training for module in adapter.modules())
        assert not any(parameter.requires_grad for parameter in adapter.parameters())
        assert torch.equal(mode.features(x), expected)
    assert [name for name, parameter in model.named_parameters() if parameter.requires_grad] == ["head.weight", "head.bias"]


def test_training_leaves_the_backbone_bit_identical() -> None:
    adapter = ViTAdapter(tiny_vit(drop_rate=0.5, drop_path_rate=0.5))
    before = copy.deepcopy(adapter.state_dict())
    model = PromptedModel(adapter, Method(MethodConfig(), adapter.shape, 5), 5)
    optimizer = torch.optim.SGD([tensor for _, tensor in model.trainable()], lr=1.0, momentum=0.9, weight_decay=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        model.training_loss(images(adapter.vit), torch.tensor([0, 1]))[0].backward()
        optimizer.step()
    assert all(torch.equal(before[name], tensor) for name, tensor in adapter.state_dict().items())
    assert not any(parameter.grad is not None for parameter in adapter.parameters())


@pytest.mark.parametrize(
    ("name", "word"),
    some(
        [
            ("resnet18", "ResNet"),
            ("swin_tiny_patch4_window7_224", "SwinTransformer"),
            ("vit_small_patch16_18x2_224", "ParallelThingsBlock"),
        ],
        1,
    ),
)
def test_other_families(name: str, word: str) -> None:
    with torch.device("meta"):
        model = timm.create_model(name, num_classes=0)
    with pytest.raises(UnsupportedError, match=word) as caught:
        ViTAdapter(model)
    assert "\n" not in str(caught.value)


def test_patches_without_a_plain_grid() -> None:
    """A convolutional stem has patches of 1 by 1 on its own feature map: prompts could not be sized from the image."""
    with torch.device("meta"):
        model = timm.create_model("vit_tiny_r_s16_p8_224", num_classes=0)
    with pytest.raises(UnsupportedError, match="HybridEmbed"):
        ViTAdapter(model)


def test_distilled() -> None:
    """Two prefix tokens that are pooled together."""
    vit = timm.create_model("deit_tiny_distilled_patch16_224", img_size=32, depth=2, num_classes=0).eval()
    adapter = ViTAdapter(vit)
    assert adapter.shape.prefix == 2
    assert torch.equal(adapter(images(vit)), vit(images(vit)))


def test_square_only() -> None:
    with pytest.raises(UnsupportedError, match="square"):
        ViTAdapter(tiny_vit(img_size=(32, 16)))
