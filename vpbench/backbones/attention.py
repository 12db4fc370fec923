"""timm's attention written out, for what its forward pass does not offer: additional keys, fewer queries, weights of one row."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vpbench.core.errors import UnsupportedError
from vpbench.interface import full_precision


def heads(x: Tensor, attention: Any) -> Tensor:
    """(B, T, D) to (B, heads, T, D / heads)."""
    return x.unflatten(-1, (attention.num_heads, -1)).transpose(1, 2)


def normed_keys(key: Tensor, attention: Any) -> Tensor:
    """Keys (B, T, D) behind the norm that some backbones take of each head's."""
    if isinstance(attention.k_norm, nn.Identity):
        return key
    return attention.k_norm(key.unflatten(-1, (attention.num_heads, -1))).flatten(-2)


def joined(sequences: Sequence[Tensor], images: int) -> Tensor:
    """Sequences (1 or B, T, D) one behind the other, in the precision of the first."""
    parts = [sequence.to(sequences[0].dtype).expand(images, -1, -1) for sequence in sequences]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


def class_logits(query: Tensor, key: Tensor, scale: float) -> Tensor:
    """The class token's products with all keys, before the softmax, (B, heads, T), float32 or wider.

    Args:
        query: (B, heads, 1, D / heads).
        key: (B, T, D).
    """
    with torch.no_grad(), full_precision(query):
        if key.dtype in (torch.bfloat16, torch.float16):
            query, key = query.float(), key.float()
        by_head = zip((query.to(key.dtype) * scale).unbind(1), key.unflatten(-1, (query.shape[1], -1)).unbind(2))
        # Head by head, since all heads in one product would need a copy of the keys in another order.
        return torch.cat([one @ keys.transpose(-2, -1) for one, keys in by_head], dim=1)


def attend(query: Tensor, key: Tensor, value: Tensor, attention: Any) -> Tensor:
    """Values mixed by attention, (B, T, D), by the kernel that the attention is set to.

    Without the fused kernel the weights are recomputed in the backward pass instead of being saved: they are as
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


class OpenAttention(nn.Module):
    """timm's attention with what its own forward pass does not offer; without any of it, the same function.

    Args:
        inner: the frozen attention, whose own parts are called.
        block: of the backbone, for observers.

    Attributes:
        key_value_prompts: gives key and value prompts, each (heads, N, D / heads), or None.
        observers: of the class token's attention.
    """

    def __init__(self, inner: nn.Module, block: int) -> None:
        super().__init__()
        self.inner: Any = inner
        self.block = block
        self.key_value_prompts: Callable[[], tuple[Tensor, Tensor]] | None = None
        self.observers: Mapping[int, ClassAttentionRow] = {}

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        self._check_no_mask(attn_mask, is_causal)
        inner = self.inner
        query, key, value = inner.qkv(x).chunk(3, dim=-1)
        key = normed_keys(key, inner)
        if self.observers:
            self.observe(inner.q_norm(heads(query[:, :1].detach(), inner)), key)
        prompts = [self.prompts()] if self.key_value_prompts else []
        key = joined([key, *(keys for keys, _ in prompts)], x.shape[0])
        value = joined([value, *(values for _, values in prompts)], x.shape[0]).to(key.dtype)
        query, key, value = (heads(third, inner) for third in (query, key, value))
        return finish(inner, attend(inner.q_norm(query), key, value, inner), x)

    def observe(self, query: Tensor, key: Tensor) -> None:
        """Show observers the class token's query (B, heads, 1, D / heads) and the keys (B, T, D), both behind their norms."""
        logits = partial(class_logits, query.detach(), key.detach(), self.inner.scale)
        for row in self.observers.values():
            row.keep(self.block, logits)

    def prompts(self) -> tuple[Tensor, Tensor]:
        """Prompts for keys (behind their norm) and for values, each (1, N, D)."""
        if self.key_value_prompts is None:
            raise ValueError("this attention has no prompts")
        key, value = (prompts.transpose(0, 1).flatten(1).unsqueeze(0) for prompts in self.key_value_prompts())
        return key, value

    def _check_no_mask(self, attn_mask: Tensor | None, is_causal: bool) -> None:
        if attn_mask is not None or is_causal:
            raise UnsupportedError("prompts inside attention do not go with an attention mask.")


def inner_attention(block: Any) -> Any:
    """The frozen attention of one of timm's blocks, whether or not it is opened."""
    return block.attn.inner if isinstance(block.attn, OpenAttention) else block.attn


class ClassAttentionRow:
    """The class token's attention row per block, computed on demand.

    Fused kernels return no weights, so the query and the keys are kept for each block until the row is read, and no full matrix
    is formed.

    Args:
        recomputing: whether a block is being run a second time, inside the backward pass; such a run is not observed.
    """

    def __init__(self, recomputing: Callable[[], bool] = lambda: False) -> None:
        self._recomputing = recomputing
        self._logits: dict[int, Callable[[], Tensor]] = {}

    def keep(self, block: int, logits: Callable[[], Tensor]) -> None:
        """Keep a block's row.

        Args:
            logits: gives the row before the softmax, (B, heads, T), in the order of the sequence and without gradients.
        """
        if not self._recomputing():
            self._logits[block] = logits

    def __call__(self, block: int) -> Tensor:
        """Softmax weights over all keys, (B, heads, T), float32 or wider; a block can be read once per forward pass."""
        return self._logits.pop(block)().softmax(-1)
