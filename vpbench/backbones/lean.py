"""One of timm's blocks for what is read of its output, and no more.

A token that nobody reads behind a block is needed there as key and value only: it needs no query, no output of the
attention and no MLP. That holds for prompts that are replaced before the next block, and in the last block for all tokens
but the class token, where the classifier reads that one alone. What is left is the same function, to rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from timm.layers import Attention
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from vpbench.backbones.attention import KeyValuePromptedAttention, attend, finish, heads, inner_attention
from vpbench.backbones.frozen import FrozenLinear, part
from vpbench.interface import Tokens


def has_lean_form(block: nn.Module) -> bool:
    """Whether a block is timm's plain one, as it was built, and nobody watches its parts."""
    if type(block) is not Block:
        return False
    attention = inner_attention(block)
    plain = type(attention) is Attention and type(attention.qkv) in (nn.Linear, FrozenLinear)
    return plain and not any(_watched(module) for module in block.modules())


def _watched(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks)


def run_lean(block: Any, tokens: Tokens, only_class: bool, seen: Sequence[Callable[[Tensor, Tensor, float], None]]) -> Tokens:
    """A block's output without the prompts, or with ``only_class`` the class token's alone.

    Args:
        block: one that :func:`has_lean_form`.
        tokens: what enters it.
        seen: called with the class token's query (B, heads, 1, D / heads), all keys, in the order of the sequence, and the
            factor of their products.
    """
    rest, attention = tokens.rest, inner_attention(block)
    normed = block.norm1(rest)
    asked = normed[:, :1] if only_class else normed
    query = attention.q_norm(heads(part(attention.qkv, asked, 0, _width(attention)), attention))
    key, value = (heads(half, attention) for half in _keys_values(block, normed, _prompts(tokens)).chunk(2, dim=-1))
    key = attention.k_norm(key)
    for look in seen:
        look(query[:, :, :1], _in_sequence(key.detach(), tokens), attention.scale)
    if isinstance(block.attn, KeyValuePromptedAttention):
        key, value = block.attn.extended(key, value)
    x = rest[:, :1] if only_class else rest
    mixed = finish(attention, attend(query, key, value, attention), asked)
    x = x + block.drop_path1(block.ls1(mixed))
    x = x + block.drop_path2(block.ls2(block.mlp(block.norm2(x))))
    return Tokens(x, 1 if only_class else tokens.prefix)


def _width(attention: Any) -> int:
    return int(attention.qkv.out_features) // 3


def _prompts(tokens: Tokens) -> Tensor | None:
    """(1 or B, N, D); one for all images where these share their prompts."""
    if not tokens.prompts:
        return None
    if tokens.apart is not None and tokens.apart.ndim == 2:
        return tokens.apart.unsqueeze(0)
    return tokens.prompt_tokens


def _keys_values(block: Any, normed: Tensor, prompts: Tensor | None) -> Tensor:
    """Keys and values side by side, (B, T, 2 D).

    Those of the prompts come last. Attention does not mind the order, and there the gradient of the others is one piece of
    the whole; around prompts in the middle it would have to be put together from two.
    """
    qkv, width = inner_attention(block).qkv, _width(inner_attention(block))

    def project(x: Tensor) -> Tensor:
        return part(qkv, x, width, 3 * width)

    if prompts is None:
        return project(normed)
    if len(prompts) == len(normed):  # joined while the tokens are half as wide
        return project(torch.cat([normed, block.norm1(prompts)], dim=1))
    return torch.cat([project(normed), project(block.norm1(prompts)).expand(len(normed), -1, -1)], dim=1)


def _in_sequence(key: Tensor, tokens: Tokens) -> Tensor:
    """Keys (B, heads, T, D / heads), those of the prompts moved from the end to their place behind the prefix."""
    if not tokens.prompts:
        return key
    front, patches, prompts = key.split([tokens.prefix, key.shape[2] - tokens.prefix - tokens.prompts, tokens.prompts], dim=2)
    return torch.cat([front, prompts, patches], dim=2)
