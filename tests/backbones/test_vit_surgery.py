"""What methods may do to the blocks: watch attention, prompt keys and values, add to prompt rows - and take it back."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_vits import images, tiny_vit
from torch import Tensor, nn

from vpbench.backbones.attention import OpenAttention, inner_attention
from vpbench.backbones.vit import ViTAdapter
from vpbench.core.errors import UnsupportedError
from vpbench.interface import Scope

BUILDS: list[dict[str, Any]] = [{}, {"qk_norm": True}, {"scale_attn_norm": True}, {"reg_tokens": 2, "init_values": 0.1}]
builds = pytest.mark.parametrize("build", BUILDS, ids=lambda build: "+".join(build) or "plain")


def double_adapter(**build: Any) -> tuple[ViTAdapter, Tensor]:
    adapter = ViTAdapter(tiny_vit(**build).double())
    return adapter, images(adapter.vit).double()


def explicit_weights(adapter: ViTAdapter, block: int, x: Tensor) -> tuple[Tensor, Tensor]:
    """Attention weights (B, heads, T, T) and values of a block from its input, written out."""
    module = adapter.vit.blocks[block]
    attention, (count, length, _) = inner_attention(module), x.shape
    query, key, value = (
        part.reshape(count, length, 3, -1).transpose(1, 2) for part in attention.qkv(module.norm1(x)).chunk(3, dim=-1)
    )
    query, key = attention.q_norm(query), attention.k_norm(key)
    return (query @ key.transpose(-2, -1) / query.shape[-1] ** 0.5).softmax(-1), value


@builds
@pytest.mark.parametrize("fused", [True, False], ids=["fused", "explicit"])
def test_class_attention_row(build: dict[str, Any], fused: bool) -> None:
    adapter, x = double_adapter(**build)
    adapter.use_fused_attention(fused)
    row = Scope(adapter).watch_class_attention()
    tokens = adapter.embed(x).with_prompts(torch.randn(3, 48, dtype=torch.float64))
    for block in range(adapter.shape.depth):
        expected = explicit_weights(adapter, block, tokens.x)[0][:, :, 0]
        tokens = adapter.block(block, tokens)
        found = row(block)
        assert found.shape == (2, 3, adapter.shape.prefix + 3 + adapter.shape.patches)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
        assert torch.equal(found.mean(1).topk(5).indices, expected.mean(1).topk(5).indices)
        assert not found.requires_grad
        with pytest.raises(KeyError):  # read and forgotten: nothing of a pass outlives it
            row(block)


@pytest.mark.parametrize("narrow", [torch.bfloat16, torch.float16])
def test_class_attention_row_is_wide(narrow: torch.dtype) -> None:
    adapter = ViTAdapter(tiny_vit())
    row = Scope(adapter).watch_class_attention()
    with torch.autocast("cpu", narrow):
        adapter(images(adapter.vit))
        found = row(0)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.sum(-1), torch.ones(2, 3), rtol=0, atol=1e-6)


def test_class_attention_needs_a_class_token() -> None:
    adapter = ViTAdapter(tiny_vit(class_token=False, reg_tokens=1, global_pool="avg"))
    with pytest.raises(UnsupportedError, match="class token"):
        Scope(adapter).watch_class_attention()


def prompts(count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    key, value = (torch.randn(3, count, 16, generator=generator, dtype=torch.float64) for _ in range(2))
    return key, value


@builds
@pytest.mark.parametrize("fused", [True, False], ids=["fused", "explicit"])
def test_no_key_value_prompts(build: dict[str, Any], fused: bool) -> None:
    adapter, x = double_adapter(**build)
    adapter.use_fused_attention(fused)
    expected = adapter(x)
    for block in range(2):
        adapter.prompt_keys_values(Scope(adapter), block, lambda: prompts(0))
    torch.testing.assert_close(adapter(x), expected, rtol=0, atol=1e-12)


@builds
@pytest.mark.parametrize("last", [False, True], ids=["first", "last"])
@pytest.mark.parametrize("fused", [True, False], ids=["fused", "explicit"])
def test_key_value_prompts(build: dict[str, Any], last: bool, fused: bool) -> None:
    adapter, x = double_adapter(**build)
    adapter.use_fused_attention(fused)
    inner, x = adapter.vit.blocks[0].attn, adapter.embed(x).x
    opened = OpenAttention(inner, 0)
    opened.key_value_prompts = lambda: prompts(4)
    found = opened(x)

    # The same written out, with the prompts at either end: attention does not see an order of keys.
    query, key, value = (part.reshape(*x.shape[:2], 3, 16).transpose(1, 2) for part in inner.qkv(x).chunk(3, dim=-1))
    query, key = inner.q_norm(query), inner.k_norm(key)
    more = [part.expand(2, -1, -1, -1) for part in prompts(4)]
    key, value = (torch.cat([old, new] if last else [new, old], 2) for old, new in zip((key, value), more))
    mixed = ((query @ key.transpose(-2, -1) / 4).softmax(-1) @ value).transpose(1, 2).flatten(2)
    torch.testing.assert_close(found, inner.proj(inner.norm(mixed)), rtol=0, atol=1e-12)
    assert (found - inner(x)).abs().max() > 1e-3


def test_key_value_prompts_receive_gradients() -> None:
    adapter, x = double_adapter()
    key, value = (nn.Parameter(part) for part in prompts(2))
    Scope(adapter).prompt_keys_values(1, lambda: (key, value))
    adapter(x).sum().backward()
    assert key.grad is not None and key.grad.any()
    assert value.grad is not None and value.grad.any()
    assert not any(parameter.grad is not None for parameter in adapter.parameters())


def test_key_value_prompts_refuse_a_mask() -> None:
    attention = OpenAttention(tiny_vit().blocks[0].attn, 0)
    with pytest.raises(UnsupportedError, match="mask"):
        attention(torch.zeros(1, 2, 48), attn_mask=torch.zeros(2, 2))


def structure(adapter: ViTAdapter) -> list[Any]:
    """Every module by identity, with its hooks and the state of its parameters."""
    return [
        (name, id(module), dict(module._forward_hooks), [parameter.requires_grad for parameter in module.parameters()])
        for name, module in adapter.named_modules()
    ]


def test_undo() -> None:
    adapter, x = double_adapter()
    expected, before = adapter(x), structure(adapter)
    scope = Scope(adapter)
    row = scope.watch_class_attention()
    scope.add_to_prompts(0, "norm1", nn.Parameter(torch.ones(1, 48)))
    scope.add_to_prompts(0, "qkv", nn.Parameter(torch.ones(1, 144)))
    scope.add_to_prompts(1, "attention", nn.Parameter(torch.ones(1, 48)))
    scope.prompt_keys_values(0, lambda: prompts(2))
    scope.prompt_keys_values(1, lambda: prompts(2))
    biases = {name: each for name, each in scope.parameters().items() if name.endswith("bias")}
    scope.train(biases)
    assert all(bias.requires_grad for bias in biases.values())
    assert structure(adapter) != before
    assert not torch.equal(adapter(x), expected)
    scope.undo()
    assert structure(adapter) == before
    assert torch.equal(adapter(x), expected)
    assert not scope.trained
    row._logits.clear()
    adapter(x)
    assert not row._logits
    scope.undo()  # a second time does nothing
    assert structure(adapter) == before


def test_undo_goes_backwards() -> None:
    adapter, _ = double_adapter()
    block, first = adapter.vit.blocks[0], adapter.vit.blocks[0].attn
    scope = Scope(adapter)
    for _ in range(3):
        scope.replace(block, "attn", nn.Identity())
    scope.undo()
    assert block.attn is first
