"""The Swin adapter is timm's model, bit by bit, and its prompted blocks are timm's with prompts in every window."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from sweeps import some
from timm.models import SwinTransformer
from tiny_swin import VARIANTS, images, tiny_swin
from torch import Tensor, nn

from vpbench.backbones.swin import SwinAdapter
from vpbench.core.errors import UnsupportedError
from vpbench.interface import Method, MethodConfig, Scope, Tokens
from vpbench.models.prompted import PromptedModel

variants = pytest.mark.parametrize("build", some(VARIANTS.values(), 6), ids=VARIANTS)


@variants
@pytest.mark.parametrize("fused", some([True, False], 1), ids=["fused", "explicit"])
def test_equals_timm(build: dict[str, Any], fused: bool) -> None:
    swin = tiny_swin(**build)
    adapter = SwinAdapter(swin)
    adapter.use_fused_attention(fused)
    x = images(swin)
    expected = swin(x)
    assert torch.equal(adapter(x), expected)
    assert expected.shape == (2, adapter.feature_width)
    assert expected.std() > 0.01  # equal because both compute, not because both vanish


@variants
def test_shape(build: dict[str, Any]) -> None:
    swin = tiny_swin(**build)
    adapter = SwinAdapter(swin)
    shape, tokens = adapter.shape, adapter.embed(images(swin))
    assert tokens.patch_tokens.shape == (2, shape.patches, shape.width)
    for block in range(shape.depth):
        if shape.starts_stage(block):
            tokens = adapter.enter_stage(block, tokens)
        tokens = adapter.block(block, tokens)
        assert tokens.x.shape == (2, shape.stage_of(block).patches, shape.width_of(block))
    assert shape.stages[-1].first + shape.stages[-1].depth == shape.depth
    assert adapter.pool(tokens).shape == (2, adapter.feature_width)


@variants
@pytest.mark.parametrize("fused", some([True, False], 1), ids=["fused", "explicit"])
def test_the_prompted_block_without_prompts_is_timms(build: dict[str, Any], fused: bool) -> None:
    """Key and value prompts of length 0 make every block take the way of a prompted one."""
    adapter = SwinAdapter(tiny_swin(**build).double())
    adapter.use_fused_attention(fused)
    x = images(adapter.swin).double()
    expected = adapter.swin(x)
    for block in range(adapter.shape.depth):
        stage = adapter.shape.stage_of(block)
        width = adapter._blocks[block].attn.qkv.out_features // 3 // stage.heads
        empty = torch.zeros(stage.heads, 0, width, dtype=torch.float64)
        adapter.prompt_keys_values(Scope(adapter), block, lambda empty=empty: (empty, empty))  # type: ignore[misc]
    torch.testing.assert_close(adapter(x), expected, rtol=0, atol=1e-11)


def attended(adapter: SwinAdapter, index: int, x: Tensor, prompts: int) -> Tensor:
    """Window attention with prompts, written out window by window and row by row of each image."""
    block, side = adapter._blocks[index], adapter.shape.stage_of(index).grid
    attention, (size, shift) = block.attn, (block.window_size[0], block.shift_size[0])
    padded = -(-side // size) * size
    out = torch.zeros_like(x)
    bias = attention._get_rel_pos_bias()[0]
    mask = block.get_attn_mask(torch.zeros(1, padded, padded, 1, dtype=x.dtype)) if shift else None
    for image in range(len(x)):
        maps = torch.zeros(padded, padded, x.shape[-1], dtype=x.dtype)
        maps[:side, :side] = torch.roll(x[image, prompts:].reshape(side, side, -1), (-shift, -shift), (0, 1))
        result, seen = torch.zeros_like(maps), []
        for number, (top, left) in enumerate((top, left) for top in range(0, padded, size) for left in range(0, padded, size)):
            window = maps[top : top + size, left : left + size].reshape(size * size, -1)
            rows = torch.cat([x[image, :prompts], window])
            query, key, value = (part.reshape(len(rows), attention.num_heads, -1) for part in attention.qkv(rows).chunk(3, -1))
            scores = torch.einsum("qhd,khd->hqk", query, key) * query.shape[-1] ** -0.5
            scores[:, prompts:, prompts:] += bias + (0 if mask is None else mask[number])
            mixed = attention.proj(torch.einsum("hqk,khd->qhd", scores.softmax(-1), value).flatten(1))
            seen.append(mixed[:prompts])
            result[top : top + size, left : left + size] = mixed[prompts:].reshape(size, size, -1)
        out[image, :prompts] = torch.stack(seen).mean(0)
        out[image, prompts:] = torch.roll(result[:side, :side], (shift, shift), (0, 1)).flatten(0, 1)
    return out


@pytest.mark.parametrize(
    "name", some(["plain", "padded windows", "one window", "masks for any size", "no query, key and value bias"], 2)
)
@pytest.mark.parametrize("fused", [True, False], ids=["fused", "explicit"])
def test_prompted_blocks_written_out(name: str, fused: bool) -> None:
    adapter = SwinAdapter(tiny_swin(**VARIANTS[name]).double())
    adapter.use_fused_attention(fused)
    tokens = adapter.embed(images(adapter.swin, 3).double())
    for index, block in enumerate(adapter._blocks):
        if adapter.shape.starts_stage(index):
            tokens = adapter.enter_stage(index, tokens)
        width = adapter.shape.width_of(index)
        tokens = tokens.with_prompts(torch.randn(3, 5, width, dtype=torch.float64))  # other prompts in every image
        x = tokens.x + attended(adapter, index, block.norm1(tokens.x), 5)
        expected = x + block.mlp(block.norm2(x))
        tokens = adapter.block(index, tokens)
        assert tokens.num_prompts == 5
        torch.testing.assert_close(tokens.x, expected, rtol=0, atol=1e-10)


def test_merging_repeats_a_prompt_four_times() -> None:
    adapter = SwinAdapter(tiny_swin())
    tokens = adapter.embed(images(adapter.swin))
    prompts = torch.randn(2, 3, 24)
    merged = adapter.enter_stage(2, tokens.with_prompts(prompts))
    downsample = adapter.swin.layers[1].downsample
    torch.testing.assert_close(merged.patch_tokens, downsample(tokens.x.reshape(2, 8, 8, 24)).flatten(1, 2))
    # A map of four equal tokens merges into the same one token.
    equal = prompts.reshape(6, 1, 1, 24).expand(-1, 2, 2, -1)
    torch.testing.assert_close(merged.prompt_tokens, downsample(equal).reshape(2, 3, 48))


@variants
def test_prompts_leave_pooling_alone(build: dict[str, Any]) -> None:
    adapter = SwinAdapter(tiny_swin(**build))
    last = adapter.shape.stages[-1]
    tokens = Tokens(torch.randn(2, last.patches, last.width), 0)
    prompted = tokens.with_prompts(torch.randn(5, last.width))
    torch.testing.assert_close(adapter.pool(prompted), adapter.pool(tokens), rtol=1e-5, atol=1e-6)


@variants
def test_frozen_in_every_mode(build: dict[str, Any]) -> None:
    adapter = SwinAdapter(tiny_swin(**build))
    model = PromptedModel(adapter, Linear(MethodConfig(), adapter.shape, 5), 5)
    x = images(adapter.swin)
    expected = adapter.swin(x)
    for mode in (model.train(), model.eval(), model.train(True)):
        assert not any(module.training for module in adapter.modules())
        assert torch.equal(mode.features(x), expected)
    assert [name for name, parameter in model.named_parameters() if parameter.requires_grad] == ["head.weight", "head.bias"]


class Linear(Method[MethodConfig]):
    title = "nothing but a head"
    families = frozenset({"swin"})


@pytest.mark.parametrize("fused", [True, False], ids=["fused", "explicit"])
def test_bf16_forward_and_backward(fused: bool) -> None:
    adapter = SwinAdapter(tiny_swin(img_size=56))
    adapter.use_fused_attention(fused)
    x, prompts = images(adapter.swin), nn.Parameter(torch.randn(3, 24) * 0.1)

    def features() -> Tensor:
        tokens = adapter.embed(x).with_prompts(prompts)
        for block in range(adapter.shape.depth):
            tokens = adapter.block(block, adapter.enter_stage(block, tokens) if block == 2 else tokens)
        return adapter.pool(tokens)

    exact = features()
    with torch.autocast("cpu", torch.bfloat16):
        rounded = features()
    assert (rounded.float() - exact).abs().max() < 0.05 * exact.abs().max() + 0.05
    rounded.float().square().sum().backward()
    assert prompts.grad is not None and prompts.grad.isfinite().all() and prompts.grad.any()


@pytest.mark.parametrize("fused", [True, False], ids=["fused", "explicit"])
def test_checkpointing_gives_equal_gradients(fused: bool) -> None:
    gradients = []
    for on in (False, True):
        adapter = SwinAdapter(tiny_swin())
        adapter.use_fused_attention(fused)
        adapter.checkpoint_blocks(on)
        prompts, keys = nn.Parameter(torch.ones(3, 24) * 0.1), nn.Parameter(torch.ones(3, 2, 16) * 0.1)
        adapter.prompt_keys_values(Scope(adapter), 2, lambda keys=keys: (keys, keys))  # type: ignore[misc]
        received = adapter.watch_received_attention(Scope(adapter))
        tokens = adapter.embed(images(adapter.swin)).with_prompts(prompts)
        for block in range(4):
            tokens = adapter.block(block, adapter.enter_stage(block, tokens) if block == 2 else tokens)
            received(block)
        adapter.pool(tokens).square().sum().backward()
        gradients.append((prompts.grad, keys.grad))
        assert not received._weights  # what runs again for the backward pass is not watched
    for plain, checkpointed in zip(*gradients):
        assert plain.any() and torch.equal(plain, checkpointed)


@pytest.mark.parametrize(("name", "word"), [("resnet18", "ResNet"), ("swinv2_tiny_window8_256", "SwinTransformerV2")])
def test_other_families(name: str, word: str) -> None:
    with torch.device("meta"):
        model = timm.create_model(name, num_classes=0)
    with pytest.raises(UnsupportedError, match=word) as caught:
        SwinAdapter(model)
    assert "\n" not in str(caught.value)


def max_pooled() -> SwinTransformer:
    swin = tiny_swin()
    swin.reset_classifier(0, "max")
    return swin


def test_max_pooled() -> None:
    swin = max_pooled()
    assert torch.equal(SwinAdapter(swin)(images(swin)), swin(images(swin)))
    with pytest.raises(UnsupportedError, match="averages"):
        SwinAdapter(swin, pool_prompts=True)


@pytest.mark.parametrize(("build", "word"), [({"img_size": (32, 64)}, "square"), ({"global_pool": ""}, "global_pool")])
def test_what_cannot_work(build: dict[str, Any], word: str) -> None:
    with pytest.raises(UnsupportedError, match=word):
        SwinAdapter(tiny_swin(**build))


def test_a_timm_that_halves_odd_maps_wrongly() -> None:
    swin = tiny_swin(img_size=36)
    for block in swin.layers[1].blocks:
        block.input_resolution = (4, 4)  # of 9 patches, as timm 1.0.21 has it
    with pytest.raises(UnsupportedError, match=r"36 px images.* a multiple of 8 px, or install timm"):
        SwinAdapter(swin)


@pytest.mark.sweep
@pytest.mark.parametrize(
    ("size", "window"), [(224, 7), *(pytest.param(*sizes, marks=pytest.mark.sweep) for sizes in ((384, 12), (448, 7)))]
)
def test_named_swins_on_meta(size: int, window: int) -> None:
    name = "swin_base_patch4_window12_384" if size == 384 else "swin_base_patch4_window7_224"
    with torch.device("meta"):
        adapter = SwinAdapter(timm.create_model(name, num_classes=0, img_size=size))
        features = adapter(torch.empty(1, 3, size, size))
    assert features.shape == (1, 1024)
    shape = adapter.shape
    assert [stage.width for stage in shape.stages] == [128, 256, 512, 1024]
    assert [stage.depth for stage in shape.stages] == [2, 2, 18, 2]
    assert [stage.heads for stage in shape.stages] == [4, 8, 16, 32]
    assert [stage.grid for stage in shape.stages] == [size // 4, size // 8, size // 16, size // 32]
    assert shape.prompt_bound == pytest.approx(0.1846, abs=5e-5)
