"""timm's attention written out, for what its own forward pass does not offer: more keys, fewer queries, one row of weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import Attention
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vpbench.core.errors import UnsupportedError
from vpbench.interface import full_precision


def heads(x: Tensor, attention: Any) -> Tensor:
    """(B, T, D) to (B, heads, T, D / heads)."""
    return x.unflatten(-1, (attention.num_heads, -1)).transpose(1, 2)


def attend(query: Tensor, key: Tensor, value: Tensor, attention: Any) -> Tensor:
    """Values mixed by attention, (B, T, D), by the kernel that the attention is set to.

    Without the fused kernel the weights are computed a second time in the backward pass instead of being kept: they are as
    many as all other values of the block together, and cheap.
    """
    if attention.fused_attn:
        mixed = F.scaled_dot_product_attention(query, key, value)
    elif torch.is_grad_enabled() and not query.is_meta and (query.requires_grad or key.requires_grad or value.requires_grad):
        mixed = checkpoint(_explicit, query, key, value, attention.scale, use_reentrant=False, preserve_rng_state=False)
    else:
        mixed = _explicit(query, key, value, attention.scale)
    return mixed.transpose(1, 2).flatten(2)


def _explicit(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    return (query * scale @ key.transpose(-2, -1)).softmax(-1) @ value


def finish(attention: Any, mixed: Tensor, x: Tensor) -> Tensor:
    """What timm's attention does with mixed values (B, T, D): norm, gate, output projection.

    Args:
        x: the attention's input for the same tokens.
    """
    mixed = attention.norm(mixed)
    if getattr(attention, "gate", None) is not None:  # older versions of timm have none
        mixed = mixed * attention.gate(x).sigmoid()
    return attention.proj_drop(attention.proj(mixed))


class KeyValuePromptedAttention(nn.Module):
    """timm's attention with prompts in front of the projected keys and values (E2VPT; prefix tuning).

    Args:
        inner: the frozen attention, whose own parts are called.
        provide: gives key and value prompts, each (heads, N, D / heads).
    """

    def __init__(self, inner: Attention, provide: Callable[[], tuple[Tensor, Tensor]]) -> None:
        super().__init__()
        self.inner, self.provide = inner, provide

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        if attn_mask is not None or is_causal:
            raise UnsupportedError("key and value prompts do not go with an attention mask.")
        inner = self.inner
        query, key, value = (heads(third, inner) for third in inner.qkv(x).chunk(3, dim=-1))
        key, value = self.extended(inner.k_norm(key), value)
        return finish(inner, attend(inner.q_norm(query), key, value, inner), x)

    def extended(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values (B, heads, T, D / heads) behind the prompts, (B, heads, N + T, D / heads)."""
        more = [prompts.to(key.dtype).expand(len(key), -1, -1, -1) for prompts in self.provide()]
        return torch.cat([more[0], key], dim=2), torch.cat([more[1], value.to(key.dtype)], dim=2)


def inner_attention(block: Any) -> Any:
    """The frozen attention of one of timm's blocks, whether or not its keys and values are prompted."""
    return block.attn.inner if isinstance(block.attn, KeyValuePromptedAttention) else block.attn


class ClassAttentionRow:
    """The class token's attention row per block, computed on demand from its query and the keys.

    Fused kernels return no weights, so both are kept for each block until they are read, and no full matrix is formed.
    """

    def __init__(self, recomputing: Callable[[], bool] = lambda: False) -> None:
        self._recomputing = recomputing
        self._kept: dict[int, tuple[Tensor, Tensor, float]] = {}

    def keep(self, block: int, query: Tensor, key: Tensor, scale: float) -> None:
        """Take note of a block's class token and keys, unless it is run again only for the backward pass.

        Args:
            query: behind norm and rotation, (B, heads, 1, D / heads).
            key: the same of all tokens, (B, heads, T, D / heads).
        """
        if not self._recomputing():
            self._kept[block] = (query.detach(), key.detach(), scale)

    @contextmanager
    def watching(self, block: int, attention: Attention) -> Iterator[None]:
        """Take note of what timm's own attention projects, while it runs."""

        def keep(_module: nn.Module, _inputs: object, output: Tensor) -> None:
            with torch.no_grad():
                query, key, _ = (heads(third, attention) for third in output.detach().chunk(3, dim=-1))
                self.keep(block, attention.q_norm(query[:, :, :1]), attention.k_norm(key), attention.scale)

        handle = attention.qkv.register_forward_hook(keep)
        try:
            yield
        finally:
            handle.remove()

    def __call__(self, block: int) -> Tensor:
        """Softmax weights over all keys, (B, heads, T), float32 or wider; reading a block forgets it."""
        query, key, scale = self._kept.pop(block)
        with torch.no_grad(), full_precision(query):
            if key.dtype in (torch.bfloat16, torch.float16):
                query, key = query.float(), key.float()
            return (query.to(key.dtype) * scale @ key.transpose(-2, -1)).softmax(-1)[:, :, 0]
