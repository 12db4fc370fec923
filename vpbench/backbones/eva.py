"""The adapter over timm's ``Eva``: ViTs with rotary position embeddings (EVA-02, DINOv3, ViTs called ``*_rope_*``).

Rotary embeddings rotate queries and keys by an angle that encodes a patch's position. Class token, registers and prompts have
no position and are not rotated, so each attention has to know how many tokens come before the patches.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from timm.layers import AttentionRope, apply_rot_embed_cat
from timm.models.eva import Eva, EvaAttention
from torch import Tensor, nn

from vpbench.backbones.attention import OpenAttention, attend, finish, inner_attention
from vpbench.backbones.edits import EditHandle, apply_edits
from vpbench.backbones.positions import check_built_size
from vpbench.backbones.vit import ViTAdapter, head_width
from vpbench.core.errors import UnsupportedError
from vpbench.interface import Scope, Tokens
from vpbench.interface.scope import Affine, Edit, Site


class EvaAdapter(ViTAdapter):
    """A frozen ``timm.models.eva.Eva``; arguments and errors as for :class:`~vpbench.backbones.vit.ViTAdapter`.

    Methods see the family ``"vit"``: to them nothing is different.
    """

    kind = Eva
    applied_sites: ClassVar[frozenset[str]] = ViTAdapter.applied_sites | {"qkv"}

    def __init__(self, vit: nn.Module, weights_sha256: str | None = None, *, pool_prompts: bool = False) -> None:
        super().__init__(vit, weights_sha256, pool_prompts=pool_prompts)
        self._rope: Any = None  # of frozen parameters and the grid alone, so that it is the same in every pass

    def embed(self, images: Tensor) -> Tokens:
        """Normalised images (B, C, S, S) to the sequence that enters block 0, absolute position embeddings added."""
        check_built_size(self.shape, images)
        x, rope = self.vit._pos_embed(self.edited("patch_embed", None, images, self.vit.patch_embed))
        self._rope = rope.to(x.device) if isinstance(rope, Tensor) else rope  # timm 1.0.21 leaves DINOv3's on the CPU
        return Tokens(self.vit.norm_pre(x), self.shape.prefix)

    def run_block(self, index: int, tokens: Tokens) -> Tokens:
        """One of timm's blocks; prompts stand with the prefix tokens, which are not rotated."""
        block = self.vit.blocks[index]
        attention, before = block.attn, block.attn.num_prefix_tokens
        rope = self._rope
        if rope is not None and getattr(self.vit, "rope_mixed", False):
            rope = rope[index]
        attention.num_prefix_tokens = tokens.prefix + tokens.num_prompts
        try:
            return tokens.with_values(self._edited_block(index, tokens.x, block, rope=rope))
        finally:
            attention.num_prefix_tokens = before

    def add_edit(self, scope: Scope, site: Site, block: int | None, edit: Edit) -> EditHandle:
        """See :meth:`vpbench.interface.Scope.after`. timm calls no module for the joint projection of some classes, so that it
        is edited in an attention that is written out."""
        if site == "qkv" and block is not None:
            self._opened(scope, block)
        return super().add_edit(scope, site, block, edit)

    def site_module(self, site: Site, block: int | None) -> nn.Module:
        """See :meth:`vpbench.interface.Scope.module`."""
        if site == "qkv" and block is not None and not _is_joint(inner_attention(self.vit.blocks[block])):
            raise UnsupportedError(
                "this method calls the joint projection of queries, keys and values, and this backbone has no such module."
            )
        return super().site_module(site, block)

    def affine(self, site: Site, block: int | None) -> list[Affine]:
        """See :meth:`vpbench.interface.Scope.fold`."""
        if site != "qkv" or block is None:
            return super().affine(site, block)
        inner = inner_attention(self.vit.blocks[block])
        if _is_joint(inner):
            return [Affine.plain(inner.qkv)]
        width = inner.proj.in_features
        thirds = [slice(third * width, (third + 1) * width) for third in range(3)]
        if inner.qkv is None:
            return [Affine.plain(module, rows) for module, rows in zip((inner.q_proj, inner.k_proj, inner.v_proj), thirds)]
        biases = tuple((inner, name, rows) for name, rows in zip(("q_bias", "k_bias", "v_bias"), thirds))
        return [Affine(inner.qkv, slice(None), biases)]

    def _open(self, attention: nn.Module, block: int) -> OpenAttention:
        return OpenRotaryAttention(attention, block, lambda: self.edits("qkv", block))


def _is_joint(attention: Any) -> bool:
    """Whether queries, keys and values, and their biases, come from one linear layer."""
    return attention.qkv is not None and getattr(attention, "q_bias", None) is None


class OpenRotaryAttention(OpenAttention):
    """timm's rotary attention with places at which methods can act; without any it computes the same.

    Args:
        inner: the frozen attention, whose own parts are called.
        block: of the backbone, for observers.
        edits: gives the edits of the joint projection.

    Attributes:
        num_prefix_tokens: tokens in front that are not rotated.
    """

    def __init__(self, inner: nn.Module, block: int, edits: Callable[[], list[Edit]]) -> None:
        if not isinstance(inner, EvaAttention | AttentionRope) or getattr(inner, "num_kv_groups", 1) > 1:
            raise UnsupportedError(
                f"this method acts inside attention, and vpbench cannot open the {type(inner).__name__} of this backbone."
            )
        super().__init__(inner, block)
        self.num_prefix_tokens: int = inner.num_prefix_tokens
        self._edits = edits

    def forward(  # type: ignore[override]
        self, x: Tensor, rope: Tensor | None = None, attn_mask: Tensor | None = None, is_causal: bool = False
    ) -> Tensor:
        self._check_no_mask(attn_mask, is_causal)
        inner, (images, length, _) = self.inner, x.shape
        projected = apply_edits(self._edits(), x, self._projected)
        split = projected.reshape(images, length, 3, inner.num_heads, head_width(inner)).permute(2, 0, 3, 1, 4)
        query, key, value = split.unbind(0)
        query, key = inner.q_norm(query), inner.k_norm(key)
        if rope is not None:
            query, key = self._rotated(query, rope).type_as(value), self._rotated(key, rope).type_as(value)
        if self.observers:
            self.observe(query[:, :, :1], key.transpose(1, 2).flatten(2))
        if self.key_value_prompts is not None:
            prompts = (prompts.to(value.dtype).expand(images, -1, -1, -1) for prompts in self.key_value_prompts())
            key_prompts, value_prompts = prompts
            key, value = torch.cat([key_prompts, key.to(value.dtype)], 2), torch.cat([value_prompts, value], 2)
            query = query.to(value.dtype)
        return finish(inner, attend(query, key, value, inner), x)

    def _projected(self, x: Tensor) -> Tensor:
        """Queries, keys and values side by side, (B, T, 3 D); the classes of timm keep biases in different places."""
        inner = self.inner
        if inner.qkv is None:
            return torch.cat([inner.q_proj(x), inner.k_proj(x), inner.v_proj(x)], -1)
        if _is_joint(inner):
            return inner.qkv(x)
        return F.linear(x, inner.qkv.weight, torch.cat([inner.q_bias, inner.k_bias, inner.v_bias]))

    def _rotated(self, x: Tensor, rope: Tensor) -> Tensor:
        front = self.num_prefix_tokens
        rotated = apply_rot_embed_cat(x[:, :, front:], rope, half=getattr(self.inner, "rotate_half", False))
        return torch.cat([x[:, :, :front], rotated], 2)
