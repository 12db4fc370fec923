"""One of timm's blocks for what is read of its output, and no more.

A token that nobody reads behind a block is needed there as key and value only: it needs no query, no output of the
attention and no MLP. That holds for prompts that are replaced before the next block, and in the last block for all tokens
but the class token, where the classifier reads that one alone. What is left is the same function, to rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from timm.layers import Attention
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from vpbench.backbones.attention import (
    KeyValuePromptedAttention,
    attend,
    class_logits,
    finish,
    heads,
    inner_attention,
    joined,
    normed_keys,
)
from vpbench.backbones.frozen import FrozenLinear, part, slices
from vpbench.interface import Tokens, full_precision

KeysValues = tuple[Tensor, Tensor]  # prompts among keys and values, each (1, N, D)
Row = Callable[[], Tensor]  # gives a token's products with all keys, before the softmax, (B, heads, T)
Mixed = tuple[Tensor, Row]  # values mixed by attention, (B, Q, D), and the row of the class token, over the sources' keys


def has_lean_form(block: nn.Module) -> bool:
    """Whether a block is timm's plain one, as it was built, and nobody watches its parts."""
    if type(block) is not Block:
        return False
    attention = inner_attention(block)
    plain = type(attention) is Attention and type(attention.qkv) in (nn.Linear, FrozenLinear)
    return plain and not any(_watched(module) for module in block.modules())


def _watched(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks)


def run_lean(block: Any, tokens: Tokens, only_class: bool, seen: Sequence[Callable[[Row], None]]) -> Tokens:
    """A block's output without the prompts, or with ``only_class`` the class token's alone.

    Args:
        block: one that :func:`has_lean_form`.
        tokens: what enters it.
        seen: called with what gives the class token's row, in the order of the sequence.
    """
    rest, attention = tokens.rest, inner_attention(block)
    sources = [block.norm1(rest)]  # of keys and values
    if tokens.prompts:
        sources.append(block.norm1(_prompts(tokens)))
    x, asking = (rest[:, :1], sources[0][:, :1]) if only_class else (rest, sources[0])
    query = attention.q_norm(heads(part(attention.qkv, asking, 0, _width(attention)), attention))
    more = [block.attn.prompts()] if isinstance(block.attn, KeyValuePromptedAttention) else []
    mix = _by_association if only_class and isinstance(attention.k_norm, nn.Identity) else _by_projection
    mixed, row = mix(attention, query, sources, more)
    for look in seen:
        look(partial(_in_sequence, row, tokens.prefix, tokens.prompts))
    x = x + block.drop_path1(block.ls1(finish(attention, mixed, asking)))
    x = x + block.drop_path2(block.ls2(block.mlp(block.norm2(x))))
    return Tokens(x, 1 if only_class else tokens.prefix)


def _width(attention: Any) -> int:
    return int(attention.qkv.out_features) // 3


def _prompts(tokens: Tokens) -> Tensor:
    """(1 or B, N, D); one for all images where these share their prompts."""
    if tokens.apart is not None and tokens.apart.ndim == 2:
        return tokens.apart.unsqueeze(0)
    return tokens.prompt_tokens


def _in_sequence(row: Row, prefix: int, prompts: int) -> Tensor:
    """The row with the prompts' keys moved from the end to their place behind the prefix, (B, heads, T)."""
    found = row()
    front, patches, moved = found.split([prefix, found.shape[2] - prefix - prompts, prompts], dim=2)
    return torch.cat([front, moved, patches], dim=2)


def _by_projection(attention: Any, query: Tensor, sources: Sequence[Tensor], more: Sequence[KeysValues]) -> Mixed:
    """What queries (B, heads, Q, D / heads) take from all values, by keys and values of their own.

    Those of the prompts come last. Attention does not mind the order, and there the gradient of the image's own keys and
    values is one piece of the whole; around prompts in the middle it would have to be put together from two.
    """
    width, images = _width(attention), len(query)
    keys = [normed_keys(part(attention.qkv, source, width, 2 * width), attention) for source in sources]
    values = [part(attention.qkv, source, 2 * width, 3 * width) for source in sources]
    own = sum(key.shape[1] for key in keys)
    key = joined([*keys, *(prompts for prompts, _ in more)], images)
    value = joined([*values, *(prompts for _, prompts in more)], images).to(key.dtype)
    row = partial(class_logits, query[:, :, :1].detach(), key[:, :own].detach(), attention.scale)
    return attend(query, heads(key, attention), heads(value, attention), attention), row


def _by_association(attention: Any, query: Tensor, sources: Sequence[Tensor], more: Sequence[KeysValues]) -> Mixed:
    """The same for one query, which is cheaper to project back than all tokens are to project.

    A head's key W x + b and value V x + c of a token x are never formed: its product with the query q is (W^T q) . x + q . b,
    and of all values it takes V (sum_t w_t x_t) + c (sum_t w_t). One query is too little work for a narrow precision to pay.
    """
    (key_weight, key_bias), (value_weight, value_bias) = (_of_heads(attention, third) for third in (1, 2))
    with full_precision(query):
        sources = [source.to(key_weight.dtype) for source in sources]
        query = query[:, :, 0].to(key_weight.dtype) * attention.scale
        back, shift = torch.einsum("bhd,hdc->bhc", query, key_weight), (query * key_bias).sum(-1, keepdim=True)
        rows = [back @ source.transpose(-2, -1) + shift for source in sources]
        prompted = [torch.einsum("bhd,hnd->bhn", query, heads(key, attention)[0].to(query.dtype)) for key, _ in more]
        weights = torch.cat([*rows, *prompted], dim=-1).softmax(-1)
        weights = weights.split([row.shape[-1] for row in (*rows, *prompted)], dim=-1)
        taken = sum(weight @ source for weight, source in zip(weights, sources))
        total = sum(weight.sum(-1, keepdim=True) for weight, _ in zip(weights, sources))
        mixed = torch.einsum("bhc,hdc->bhd", taken, value_weight) + total * value_bias
        for weight, (_, value) in zip(weights[len(sources) :], more):
            mixed = mixed + torch.einsum("bhn,hnd->bhd", weight, heads(value, attention)[0].to(weight.dtype))
    return mixed.flatten(1).unsqueeze(1), partial(torch.cat, [row.detach() for row in rows], dim=-1)


def _of_heads(attention: Any, third: int) -> tuple[Tensor, Tensor]:
    """Weight (heads, D / heads, D) and bias (heads, D / heads) of a third of the joint projection."""
    weight, bias = slices(attention.qkv, third * _width(attention), (third + 1) * _width(attention))
    bias = weight.new_zeros(len(weight)) if bias is None else bias
    return weight.unflatten(0, (attention.num_heads, -1)), bias.unflatten(0, (attention.num_heads, -1))
