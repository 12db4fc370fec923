"""One of timm's blocks, computed for those tokens of its output that are used.

A token whose output nothing uses is needed as key and value only: it needs no query, no output of the attention and no MLP.
That holds for prompts that are replaced before the next block, and in the last block for all tokens but the class token,
where the classifier uses that one alone. What is computed is the same function, to rounding.
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
    OpenAttention,
    attend,
    class_logits,
    finish,
    heads,
    inner_attention,
    joined,
    normed_keys,
)
from vpbench.backbones.edits import is_hooked, needs_all_tokens
from vpbench.backbones.frozen_linear import FrozenLinear, part, slices
from vpbench.interface import Tokens, full_precision

KeysValues = tuple[Tensor, Tensor]  # prompts among keys and values, each (1, N, D)
Row = Callable[[], Tensor]  # gives a token's products with all keys, before the softmax, (B, heads, T)
AddBranch = Callable[[Any, Tensor, Tensor], Tensor]
Mixed = tuple[Tensor, Row]  # values mixed by attention, (B, Q, D), and the row of the class token, over the sources' keys


def can_skip_tokens(block: nn.Module) -> bool:
    """Whether a block is timm's plain one, as it was built, and no hook inside of it needs all tokens at once."""
    if type(block) is not Block:
        return False
    attention = inner_attention(block)
    projection: Any = attention.qkv
    wrapped = getattr(projection, "base_layer", projection)  # a tuner of peft has the layer that it adapts inside
    plain = type(attention) is Attention and type(wrapped) in (nn.Linear, FrozenLinear)
    return plain and not any(needs_all_tokens(module) for module in block.modules())


def run_needed_tokens(
    block: Any, tokens: Tokens, only_class: bool, observers: Sequence[Callable[[Row], None]], add_branch: AddBranch
) -> Tokens:
    """A block's output without the prompts, or with ``only_class`` the class token's alone.

    Args:
        block: one for which :func:`can_skip_tokens`.
        tokens: what enters it.
        observers: called with a function that gives the class token's row, in the order of the sequence.
        add_branch: (site, x, y) to the residual stream x with a branch's output y added.
    """
    image_tokens, attention = tokens.image_tokens, inner_attention(block)
    sources = [block.norm1(image_tokens)]  # of keys and values
    if tokens.prompts is not None:
        sources.append(block.norm1(tokens.prompts if tokens.prompts.ndim == 3 else tokens.prompts.unsqueeze(0)))
    x, asking = (image_tokens[:, :1], sources[0][:, :1]) if only_class else (image_tokens, sources[0])
    opened = block.attn if isinstance(block.attn, OpenAttention) else None
    prompted = [opened.prompts()] if opened is not None and opened.key_value_prompts else []
    attend_class = only_class and isinstance(attention.k_norm, nn.Identity) and not _is_edited(attention.qkv)
    attend_sources = _attend_without_keys if attend_class else _attend_with_keys
    mixed, row = attend_sources(attention, asking, sources, prompted)
    for observe in observers:
        observe(partial(_in_sequence, row, tokens.prefix, tokens.num_prompts))
    x = add_branch("attention_branch", x, block.drop_path1(block.ls1(finish(attention, mixed, asking))))
    x = add_branch("mlp_branch", x, block.drop_path2(block.ls2(block.mlp(block.norm2(x)))))
    return Tokens(x, 1 if only_class else tokens.prefix)


def _width(attention: Any) -> int:
    return int(attention.num_heads) * int(attention.head_dim)


def _is_edited(projection: nn.Module) -> bool:
    """Whether it has to be called as a whole: what a method adds to the joint projection is not known by its thirds."""
    return is_hooked(projection) or type(projection) not in (nn.Linear, FrozenLinear)


def _in_sequence(row: Row, prefix: int, prompts: int) -> Tensor:
    """The row with the prompts' keys moved from the end to their place behind the prefix, (B, heads, T)."""
    found = row()
    front, patches, moved = found.split([prefix, found.shape[2] - prefix - prompts, prompts], dim=2)
    return torch.cat([front, moved, patches], dim=2)


def _query(attention: Any, asking: Tensor) -> Tensor:
    """Queries of some tokens (B, Q, D), behind their norm, (B, heads, Q, D / heads)."""
    if _is_edited(attention.qkv):
        projected = attention.qkv(asking)[..., : _width(attention)]
    else:
        projected = part(attention.qkv, asking, 0, _width(attention))
    return attention.q_norm(heads(projected, attention))


def _key_value(attention: Any, source: Tensor) -> tuple[Tensor, Tensor]:
    """Keys, behind their norm, and values of tokens, each (B, T, D)."""
    width = _width(attention)
    if _is_edited(attention.qkv):
        _, key, value = attention.qkv(source).chunk(3, dim=-1)
    else:
        key, value = part(attention.qkv, source, width, 2 * width), part(attention.qkv, source, 2 * width, 3 * width)
    return normed_keys(key, attention), value


def _attend_with_keys(attention: Any, asking: Tensor, sources: Sequence[Tensor], prompted: Sequence[KeysValues]) -> Mixed:
    """What the queries of some tokens take from all values.

    Keys and values of the prompts come last. Attention does not depend on the order, and there the gradient of the image's own
    keys and values is one contiguous tensor; around prompts in the middle it would have to be joined from two.
    """
    query, images = _query(attention, asking), asking.shape[0]
    own = [_key_value(attention, source) for source in sources]
    count = sum(key.shape[1] for key, _ in own)
    key = joined([*(key for key, _ in own), *(key for key, _ in prompted)], images)
    value = joined([*(value for _, value in own), *(value for _, value in prompted)], images).to(key.dtype)
    row = partial(class_logits, query[:, :, :1].detach(), key[:, :count].detach(), attention.scale)
    return attend(query, heads(key, attention), heads(value, attention), attention), row


def _attend_without_keys(attention: Any, asking: Tensor, sources: Sequence[Tensor], prompted: Sequence[KeysValues]) -> Mixed:
    """The same for one query, by associativity: it is cheaper to project the query back than to project all tokens.

    A head's key W x + b and value V x + c of a token x are never formed: its product with the query q is (W^T q) . x + q . b,
    and of all values it takes V (sum_t w_t x_t) + c (sum_t w_t). One query is too little work for bf16 to pay.
    """
    query = _query(attention, asking)
    (key_weight, key_bias), (value_weight, value_bias) = (_of_heads(attention, third) for third in (1, 2))
    with full_precision(query):
        sources = [source.to(key_weight.dtype) for source in sources]
        query = query[:, :, 0].to(key_weight.dtype) * attention.scale
        back, shift = torch.einsum("bhd,hdc->bhc", query, key_weight), (query * key_bias).sum(-1, keepdim=True)
        rows = [back @ source.transpose(-2, -1) + shift for source in sources]
        prompt_rows = [torch.einsum("bhd,hnd->bhn", query, heads(key, attention)[0].to(query.dtype)) for key, _ in prompted]
        weights = torch.cat([*rows, *prompt_rows], dim=-1).softmax(-1)
        weights = weights.split([row.shape[-1] for row in (*rows, *prompt_rows)], dim=-1)
        taken = sum(weight @ source for weight, source in zip(weights, sources))
        total = sum(weight.sum(-1, keepdim=True) for weight, _ in zip(weights, sources))
        mixed = torch.einsum("bhc,hdc->bhd", taken, value_weight) + total * value_bias
        for weight, (_, value) in zip(weights[len(sources) :], prompted):
            mixed = mixed + torch.einsum("bhn,hnd->bhd", weight, heads(value, attention)[0].to(weight.dtype))
    return mixed.flatten(1).unsqueeze(1), partial(torch.cat, [row.detach() for row in rows], dim=-1)


def _of_heads(attention: Any, third: int) -> tuple[Tensor, Tensor]:
    """Weight (heads, D / heads, D) and bias (heads, D / heads) of a third of the joint projection."""
    weight, bias = slices(attention.qkv, third * _width(attention), (third + 1) * _width(attention))
    bias = weight.new_zeros(len(weight)) if bias is None else bias
    return weight.unflatten(0, (attention.num_heads, -1)), bias.unflatten(0, (attention.num_heads, -1))
