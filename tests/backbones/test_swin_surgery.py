"""What methods may do to Swin's blocks: prompt keys and values, add to prompt rows, see received attention - and undo it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from sweeps import some
from tiny_swin import images, tiny_swin
from torch import Tensor, nn

from vpbench.backbones.swin import SwinAdapter
from vpbench.core.errors import UnsupportedError
from vpbench.interface import Scope, Tokens

BUILDS: list[dict[str, Any]] = [{}, {"img_size": 56}]
builds = pytest.mark.parametrize("build", BUILDS, ids=["plain", "padded"])
kernels = pytest.mark.parametrize("fused", [True, False], ids=["fused", "explicit"])


def double_adapter(fused: bool = False, **build: Any) -> tuple[SwinAdapter, Tensor]:
    adapter = SwinAdapter(tiny_swin(**build).double())
    adapter.use_fused_attention(fused)
    return adapter, images(adapter.swin).double()


def run_to(adapter: SwinAdapter, x: Tensor, last: int, prompts: int = 0) -> Tokens:
    """The sequence that enters block ``last``, with that many random prompts of its width."""
    tokens = adapter.embed(x)
    for block in range(last):
        tokens = adapter.block(block, tokens)
        if adapter.shape.starts_stage(block + 1):
            tokens = adapter.enter_stage(block + 1, tokens)
    width = adapter.shape.width_of(last)
    generator = torch.Generator().manual_seed(2)
    return tokens.with_prompts(torch.randn(2, prompts, width, generator=generator, dtype=torch.float64)) if prompts else tokens


@builds
@kernels
@pytest.mark.parametrize("block", some([0, 1, 2, 3], 2))
def test_key_value_prompts_equal_prompts_that_were_projected(build: dict[str, Any], fused: bool, block: int) -> None:
    """A prompt's own key and value, given as key and value prompt, change patch tokens as the prompt in the sequence does."""
    adapter, x = double_adapter(fused, **build)
    tokens, attention = run_to(adapter, x[:1], block, 0), adapter._blocks[block].attn
    width, heads = adapter.shape.width_of(block), attention.num_heads
    prompts = torch.randn(4, width, dtype=torch.float64)
    expected = adapter.block(block, tokens.with_prompts(prompts)).patch_tokens
    _, key, value = attention.qkv(adapter._blocks[block].norm1(prompts)).reshape(4, 3, heads, -1).permute(1, 2, 0, 3)
    scope = Scope(adapter)
    scope.prompt_keys_values(block, lambda: (key, value))
    torch.testing.assert_close(adapter.block(block, tokens).x, expected, rtol=0, atol=1e-11)
    scope.undo()
    assert (adapter.block(block, tokens).x - expected).abs().max() > 1e-3


@kernels
def test_key_value_prompts_receive_gradients(fused: bool) -> None:
    adapter, x = double_adapter(fused)
    key, value = (nn.Parameter(torch.randn(3, 2, 16, dtype=torch.float64)) for _ in range(2))
    Scope(adapter).prompt_keys_values(3, lambda: (key, value))
    adapter(x).square().sum().backward()
    assert key.grad is not None and key.grad.any()
    assert value.grad is not None and value.grad.any()
    assert not any(parameter.grad is not None for parameter in adapter.parameters())


@builds
@kernels
@pytest.mark.parametrize("block", [0, 1, 2, 3])
@pytest.mark.parametrize("prompts", [0, 3])
def test_received_attention(build: dict[str, Any], fused: bool, block: int, prompts: int) -> None:
    """Sums over windows, and on maps that need no padding every weight written out."""
    adapter, x = double_adapter(fused, **build)
    tokens, parent = run_to(adapter, x, block, prompts), adapter._blocks[block]
    plain = adapter.block(block, tokens)
    received = Scope(adapter).watch_received_attention()
    assert torch.equal(adapter.block(block, tokens).x, plain.x) or prompts == 0  # without prompts timm's own kernel before
    found = received(block)
    side, size, shift = adapter.shape.stage_of(block).grid, parent.window_size[0], parent.shift_size[0]
    assert found.shape == (2, side**2) and not found.requires_grad
    with pytest.raises(KeyError):  # read and forgotten: nothing of a pass outlives it
        received(block)

    # Each of a window's queries gives away weights that add to one, so that their mean adds to one over its tokens.
    maps = torch.roll(found.reshape(2, side, side), (-shift, -shift), (1, 2))
    sums = torch.stack([
        maps[:, top : top + size, left : left + size].sum((1, 2))
        for top in range(0, side, size) for left in range(0, side, size)
    ])  # fmt: skip
    if prompts or build:
        assert (sums < 1 + 1e-9).all() and (sums > 0).all()  # prompts and padding receive the rest
    else:
        torch.testing.assert_close(sums, torch.ones_like(sums))
    if not build:
        torch.testing.assert_close(found, columns(adapter, block, tokens), rtol=0, atol=1e-12)


def columns(adapter: SwinAdapter, block: int, tokens: Tokens) -> Tensor:
    """Mean weight of each patch token over heads and queries, window by window."""
    parent, side = adapter._blocks[block], adapter.shape.stage_of(block).grid
    attention, size, shift, n = parent.attn, parent.window_size[0], parent.shift_size[0], tokens.num_prompts
    normed = parent.norm1(tokens.x)
    maps = torch.roll(normed[:, n:].reshape(2, side, side, -1), (-shift, -shift), (1, 2))
    found = torch.zeros(2, side, side, dtype=torch.float64)
    number = 0
    for top in range(0, side, size):
        for left in range(0, side, size):
            window = maps[:, top : top + size, left : left + size].flatten(1, 2)
            rows = torch.cat([normed[:, :n], window], 1)
            query, key, _ = attention.qkv(rows).reshape(2, rows.shape[1], 3, attention.num_heads, -1).permute(2, 0, 3, 1, 4)
            scores = query @ key.transpose(-2, -1) * attention.scale
            scores[:, :, n:, n:] += attention._get_rel_pos_bias() + (0 if parent.attn_mask is None else parent.attn_mask[number])
            weights = scores.softmax(-1)[:, :, n:, n:].mean((1, 2))
            found[:, top : top + size, left : left + size] = weights.reshape(2, size, size)
            number += 1
    return torch.roll(found, (shift, shift), (1, 2)).flatten(1)


def test_no_class_token() -> None:
    adapter, _ = double_adapter()
    with pytest.raises(UnsupportedError, match="class token"):
        Scope(adapter).watch_class_attention()


def test_undo() -> None:
    adapter, x = double_adapter()
    expected = adapter(x)
    scope = Scope(adapter)
    received = scope.watch_received_attention()
    scope.add_to_prompts(0, "qkv", nn.Parameter(torch.ones(1, 72, dtype=torch.float64)))
    scope.prompt_keys_values(2, lambda: (torch.ones(3, 1, 16, dtype=torch.float64),) * 2)  # type: ignore[return-value]
    assert not torch.equal(adapter(x), expected)
    scope.undo()
    received._weights.clear()
    assert torch.equal(adapter(x), expected)
    assert not received._weights and not adapter._blocks[0].attn.qkv._forward_hooks
    scope.undo()  # a second time does nothing
