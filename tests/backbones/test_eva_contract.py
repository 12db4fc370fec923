"""ViTs with rotary position embeddings: timm's model bit by bit, and prompts that have no place in the image."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import timm
import torch
from sweeps import some
from timm.models.eva import Eva
from tiny_evas import VARIANTS, images, tiny_eva
from torch import Tensor, nn

from vpbench.backbones.eva import EvaAdapter, OpenRotaryAttention
from vpbench.backbones.family import adapter_for
from vpbench.core.errors import UnsupportedError
from vpbench.interface import Scope

builds = pytest.mark.parametrize("build", VARIANTS.values(), ids=VARIANTS)
rotary = pytest.mark.parametrize(
    "build", [build for build in VARIANTS.values() if build], ids=[name for name, build in VARIANTS.items() if build]
)


def double_adapter(build: dict[str, Any]) -> tuple[EvaAdapter, Tensor]:
    eva = tiny_eva(**build).double()
    try:
        eva(images().double())
    except RuntimeError:
        pytest.skip(f"timm {timm.__version__} computes this one in float32 only")
    adapter = adapter_for(eva)
    assert isinstance(adapter, EvaAdapter)
    return adapter, images().double()


@builds
@pytest.mark.parametrize("fused", [True, False], ids=["fused", "explicit"])
def test_equals_timm(build: dict[str, Any], fused: bool) -> None:
    eva = tiny_eva(**build)
    adapter = adapter_for(eva)
    adapter.use_fused_attention(fused)
    expected = eva(images())
    assert torch.equal(adapter(images()), expected)
    assert expected.shape == (2, adapter.feature_width)
    assert expected.std() > 0.01
    assert (adapter.shape.family, adapter.shape.prefix) == ("vit", eva.num_prefix_tokens)


@builds
def test_prompts_leave_timm_alone(build: dict[str, Any]) -> None:
    """What a prompted pass sets inside timm's modules is taken back."""
    eva = tiny_eva(**build)
    adapter, expected = adapter_for(eva), eva(images())
    tokens = adapter.embed(images()).with_prompts(torch.randn(5, 48))
    for index in range(2):
        tokens = adapter.block(index, tokens)
    assert tokens.x.shape[1] == eva.num_prefix_tokens + 5 + 16
    assert torch.equal(eva(images()), expected)


def rotated_tokens(attention: nn.Module, run: Any) -> list[tuple[Tensor, Tensor]]:
    """Queries before and behind the rotation, (B, heads, T, D / heads), of every call while ``run`` runs.

    ``q_norm`` sees the one, and the attention kernel the other.
    """
    before: list[Tensor] = []
    behind: list[Tensor] = []
    handle = attention.q_norm.register_forward_hook(lambda _module, _inputs, output: before.append(output))
    kernel = torch.nn.functional.scaled_dot_product_attention

    def spy(query: Tensor, *rest: Any, **more: Any) -> Tensor:
        behind.append(query)
        return kernel(query, *rest, **more)

    torch.nn.functional.scaled_dot_product_attention = spy
    try:
        run()
    finally:
        torch.nn.functional.scaled_dot_product_attention = kernel
        handle.remove()
    return list(zip(before, behind, strict=True))


@rotary
def test_prompts_are_not_rotated(build: dict[str, Any]) -> None:
    adapter, x = double_adapter(build)
    adapter.use_fused_attention(True)
    plain = adapter.embed(x)
    prompted = plain.with_prompts(torch.randn(3, 48, dtype=torch.float64))
    block, front = adapter.vit.blocks[0], adapter.shape.prefix
    (before, behind), (with_before, with_behind) = (
        rotated_tokens(block.attn, lambda tokens=tokens: adapter.block(0, tokens))[0] for tokens in (plain, prompted)
    )
    assert not torch.allclose(before[:, :, front:], behind[:, :, front:])  # patches are turned
    assert torch.equal(with_before[:, :, : front + 3], with_behind[:, :, : front + 3])  # prompts are not
    torch.testing.assert_close(with_before[:, :, front + 3 :], before[:, :, front:], rtol=0, atol=1e-12)
    torch.testing.assert_close(with_behind[:, :, front + 3 :], behind[:, :, front:], rtol=0, atol=1e-12)  # as without prompts


@rotary
def test_order_of_prompts_does_not_matter(build: dict[str, Any]) -> None:
    adapter, x = double_adapter(build)
    prompts = torch.randn(4, 48, dtype=torch.float64)
    found = []
    for order in ([0, 1, 2, 3], [3, 1, 0, 2]):
        tokens = adapter.embed(x).with_prompts(prompts[order])
        for index in range(2):
            tokens = adapter.block(index, tokens)
        found.append(adapter.pool(tokens))
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=1e-10)


# --- what methods do inside attention


@builds
@pytest.mark.parametrize("fused", some([True, False], 1), ids=["fused", "explicit"])
def test_opened_attention_is_the_same(build: dict[str, Any], fused: bool) -> None:
    adapter, x = double_adapter(build)
    adapter.use_fused_attention(fused)
    expected = adapter(x)
    scope = Scope(adapter)
    for block in range(2):
        adapter._opened(scope, block)
        assert isinstance(adapter.vit.blocks[block].attn, OpenRotaryAttention)
    torch.testing.assert_close(adapter(x), expected, rtol=0, atol=1e-12)
    scope.undo()
    assert torch.equal(adapter(x), expected)


@rotary
def test_key_value_prompts(build: dict[str, Any]) -> None:
    """A prompt for keys and values does what a prefix token with this key and value would do: all others attend to it."""
    adapter, x = double_adapter(build)
    tokens = adapter.embed(x)
    key, value = (nn.Parameter(torch.randn(3, 2, 16, dtype=torch.float64)) for _ in range(2))
    scope, inner, rope = Scope(adapter), adapter.vit.blocks[0].attn, rope_of(adapter)
    adapter.prompt_keys_values(scope, 0, lambda: (key, value))
    opened = adapter.vit.blocks[0].attn
    given = torch.randn(2, tokens.x.shape[1], 48, dtype=torch.float64)
    found, (images_, heads) = opened(given, rope=rope), (2, 3)
    query, keys, values = (part.reshape(images_, -1, heads, 16).transpose(1, 2) for part in opened._projected(given).chunk(3, -1))
    query, keys = inner.q_norm(query), inner.k_norm(keys)
    if rope is not None:
        query, keys = opened._rotated(query, rope), opened._rotated(keys, rope)
    keys = torch.cat([keys, key.expand(images_, -1, -1, -1)], 2)
    values = torch.cat([values, value.expand(images_, -1, -1, -1)], 2)
    mixed = ((query @ keys.transpose(-2, -1) / 4).softmax(-1) @ values).transpose(1, 2).flatten(2)
    torch.testing.assert_close(found, inner.proj(inner.norm(mixed)), rtol=0, atol=1e-12)
    found.sum().backward()
    assert key.grad is not None and key.grad.any() and value.grad is not None and value.grad.any()
    scope.undo()
    assert adapter.vit.blocks[0].attn is inner


def rope_of(adapter: EvaAdapter) -> Tensor | None:
    """Rotation of block 0."""
    mixed = getattr(adapter.vit, "rope_mixed", False)
    rope: Tensor | None = adapter._rope[0] if mixed else adapter._rope
    return rope


@builds
def test_class_attention_row(build: dict[str, Any]) -> None:
    adapter, x = double_adapter(build)
    row = Scope(adapter).watch_class_attention()
    adapter.use_fused_attention(False)
    weights: list[Tensor] = []
    handles = [
        block.attn.inner.attn_drop.register_forward_hook(lambda _module, _inputs, output: weights.append(output))
        for block in adapter.vit.blocks
    ]
    tokens = adapter.embed(x).with_prompts(torch.randn(3, 48, dtype=torch.float64))
    for block in range(2):
        timms = adapter.vit.blocks[block].attn.inner  # with the same input, timm's own attention drops out of its weights
        timms.num_prefix_tokens = tokens.prefix + tokens.num_prompts
        normed = tokens.x if "use_post_norm" in build else adapter.vit.blocks[block].norm1(tokens.x)
        rope = adapter._rope[block] if getattr(adapter.vit, "rope_mixed", False) else adapter._rope
        timms(normed, rope=rope)
        tokens = adapter.block(block, tokens)
        found = row(block)
        assert found.shape == (2, 3, adapter.shape.prefix + 3 + 16)
        torch.testing.assert_close(found, weights[block][:, :, 0], rtol=0, atol=1e-12)
        assert not found.requires_grad
        with pytest.raises(KeyError):
            row(block)
    for handle in handles:
        handle.remove()


def test_class_attention_needs_a_class_token() -> None:
    adapter = adapter_for(tiny_eva(class_token=False, global_pool="avg", use_rot_pos_emb=True))
    with pytest.raises(UnsupportedError, match="class token"):
        Scope(adapter).watch_class_attention()


def test_grouped_heads_stay_closed() -> None:
    """Some models share keys among heads; prompts of the backbone's own head count would not fit."""
    if "num_kv_heads" not in inspect.signature(Eva).parameters:
        pytest.skip("this version of timm has no grouped heads")
    adapter = adapter_for(tiny_eva(use_rot_pos_emb=True, attn_type="rope", qkv_fused=False, num_kv_heads=1))
    assert torch.equal(adapter(images()), adapter.vit(images()))
    with pytest.raises(UnsupportedError, match="AttentionRope"):
        Scope(adapter).watch_class_attention()


@pytest.mark.parametrize(
    "name",
    ["eva02_tiny_patch14_224", "vit_small_patch16_dinov3", "vit_small_patch16_rope_mixed_224", "eva02_base_patch16_clip_224"],
)
def test_published_architectures(name: str) -> None:
    """timm's own arguments, in a small build."""
    patch = 14 if "patch14" in name else 16
    eva = timm.create_model(name, num_classes=0, img_size=4 * patch, depth=2).eval()
    x = torch.randn(1, 3, 4 * patch, 4 * patch)
    assert torch.equal(adapter_for(eva)(x), eva(x))
