"""The adapter over timm's ``Eva``: ViTs with rotary position embeddings (EVA-02, DINOv3, ViTs called ``*_rope_*``).

Rotary embeddings turn queries and keys by an angle that stands for a patch's place. Class token, registers and prompts have
no place and are not turned, so each attention has to know how many tokens come before the patches.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import AttentionRope, apply_rot_embed_cat
from timm.models.eva import Eva, EvaAttention
from torch import Tensor, nn

from vpbench.backbones.attention import ClassAttentionRow, attend, class_logits, finish
from vpbench.backbones.vit import ViTAdapter, head_width
from vpbench.core.errors import UnsupportedError
from vpbench.interface import ClassAttention, Scope, Tokens
from vpbench.interface.scope import Site

Edit = Callable[[Tensor], Tensor]


class EvaAdapter(ViTAdapter):
    """A frozen ``timm.models.eva.Eva``; arguments and errors as for :class:`~vpbench.backbones.vit.ViTAdapter`.

    Methods see the family ``"vit"``: to them nothing is different.
    """

    kind = Eva

    def __init__(self, vit: nn.Module, weights_sha256: str | None = None, *, pool_prompts: bool = False) -> None:
        super().__init__(vit, weights_sha256, pool_prompts=pool_prompts)
        self._rope: Any = None  # of frozen parameters and the grid alone, so that it is the same in every pass

    def embed(self, images: Tensor) -> Tokens:
        """Normalised images (B, C, S, S) to the sequence that enters block 0, absolute position embeddings added."""
        x, self._rope = self.vit._pos_embed(self.vit.patch_embed(images))
        return Tokens(self.vit.norm_pre(x), self.shape.prefix)

    def run_block(self, index: int, tokens: Tokens) -> Tokens:
        """One of timm's blocks; prompts stand with the prefix tokens, which are not turned."""
        block = self.vit.blocks[index]
        attention, before = block.attn, block.attn.num_prefix_tokens
        rope = self._rope
        if rope is not None and getattr(self.vit, "rope_mixed", False):
            rope = rope[index]
        attention.num_prefix_tokens = tokens.prefix + tokens.prompts
        try:
            return tokens.with_values(block(tokens.x, rope=rope))
        finally:
            attention.num_prefix_tokens = before

    def prompt_keys_values(self, scope: Scope, block: int, provide: Callable[[], tuple[Tensor, Tensor]]) -> None:
        """See :meth:`vpbench.interface.Scope.prompt_keys_values`; these prompts are not turned either."""
        attention = self._opened(scope, block)
        self._check_heads(attention.inner)
        attention.provide = provide

    def add_to_prompts(self, scope: Scope, block: int, site: Site, values: nn.Parameter) -> None:
        """See :meth:`vpbench.interface.Scope.add_to_prompts`."""
        parent = self.vit.blocks[block]
        self._check_site(parent, site)
        if site == "qkv":
            self._opened(scope, block).edits.append(lambda projected: self._added(projected, values))
            return

        def add(_module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
            return self._added(output, values)

        module = parent.norm1 if site == "norm1" else self._opened(scope, block)
        scope.hook(module.register_forward_hook(add))

    def watch_class_attention(self, scope: Scope) -> ClassAttention:
        """See :meth:`vpbench.interface.Scope.watch_class_attention`."""
        self._check_class_token()
        row = ClassAttentionRow(lambda: self.recomputing)
        for index in range(self.shape.depth):
            opened = self._opened(scope, index)
            opened.seen = partial(_class_attention, row, index, opened.inner.scale)
        return row

    def _opened(self, scope: Scope, block: int) -> OpenRotaryAttention:
        """The block's attention, written out, in place of timm's."""
        parent = self.vit.blocks[block]
        if not isinstance(parent.attn, OpenRotaryAttention):
            scope.replace(parent, "attn", OpenRotaryAttention(parent.attn))
        opened: OpenRotaryAttention = parent.attn
        return opened


def _class_attention(row: ClassAttentionRow, block: int, scale: float, query: Tensor, key: Tensor) -> None:
    row.keep(block, partial(class_logits, query[:, :, :1].detach(), key.detach().transpose(1, 2).flatten(2), scale))


class OpenRotaryAttention(nn.Module):
    """timm's rotary attention with places at which methods can act; without any it computes the same.

    Args:
        inner: the frozen attention, whose own parts are called.

    Attributes:
        edits: applied to the joint projection, (B, T, 3 D), in order.
        provide: gives key and value prompts, each (heads, N, D / heads), or None.
        seen: called with queries and keys behind norms and rotation, each (B, heads, T, D / heads), or None.
        num_prefix_tokens: tokens in front that are not turned.
    """

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        if not isinstance(inner, EvaAttention | AttentionRope) or getattr(inner, "num_kv_groups", 1) > 1:
            raise UnsupportedError(
                f"this method acts inside attention, and vpbench cannot open the {type(inner).__name__} of this backbone."
            )
        self.inner: Any = inner
        self.num_prefix_tokens: int = inner.num_prefix_tokens
        self.edits: list[Edit] = []
        self.provide: Callable[[], tuple[Tensor, Tensor]] | None = None
        self.seen: Callable[[Tensor, Tensor], None] | None = None

    def forward(self, x: Tensor, rope: Tensor | None = None, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        if attn_mask is not None or is_causal:
            raise UnsupportedError("prompts inside attention do not go with an attention mask.")
        inner, (images, length, _) = self.inner, x.shape
        projected = self._projected(x)
        for edit in self.edits:
            projected = edit(projected)
        split = projected.reshape(images, length, 3, inner.num_heads, head_width(inner)).permute(2, 0, 3, 1, 4)
        query, key, value = split.unbind(0)
        query, key = inner.q_norm(query), inner.k_norm(key)
        if rope is not None:
            query, key = self._turned(query, rope).type_as(value), self._turned(key, rope).type_as(value)
        if self.seen is not None:
            self.seen(query, key)
        if self.provide is not None:
            key_prompts, value_prompts = (prompts.to(value.dtype).expand(images, -1, -1, -1) for prompts in self.provide())
            key, value = torch.cat([key_prompts, key.to(value.dtype)], 2), torch.cat([value_prompts, value], 2)
            query = query.to(value.dtype)
        return finish(inner, attend(query, key, value, inner), x)

    def _projected(self, x: Tensor) -> Tensor:
        """Queries, keys and values side by side, (B, T, 3 D); the classes of timm keep biases in different places."""
        inner = self.inner
        if inner.qkv is None:
            return torch.cat([inner.q_proj(x), inner.k_proj(x), inner.v_proj(x)], -1)
        if getattr(inner, "q_bias", None) is None:
            return inner.qkv(x)
        return F.linear(x, inner.qkv.weight, torch.cat([inner.q_bias, inner.k_bias, inner.v_bias]))

    def _turned(self, x: Tensor, rope: Tensor) -> Tensor:
        front = self.num_prefix_tokens
        turned = apply_rot_embed_cat(x[:, :, front:], rope, half=getattr(self.inner, "rotate_half", False))
        return torch.cat([x[:, :, :front], turned], 2)
