"""The adapter over timm's ``VisionTransformer``: timm's own parts, called one after the other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
import torch.nn.functional as F
from timm.layers import Attention, PatchEmbed
from timm.models import VisionTransformer
from torch import Tensor, nn

from vpbench.core.errors import UnsupportedError
from vpbench.interface import BackboneShape, Scope, Tokens, full_precision


class ViTAdapter(nn.Module):
    """A frozen ViT whose sequence can be edited between its blocks.

    ``adapter(x)`` equals ``vit(x)`` without a classifier, bit by bit.

    Args:
        vit: any ``timm.models.VisionTransformer`` (``num_classes=0``); it is frozen and put into evaluation mode.
        weights_sha256: of the file that its weights came from, None for random ones.

    Raises:
        UnsupportedError: for a timm model of another family, with parallel blocks, or with a convolutional stem.
    """

    family = "vit"

    def __init__(self, vit: nn.Module, weights_sha256: str | None = None) -> None:
        super().__init__()
        if not isinstance(vit, VisionTransformer):
            raise UnsupportedError(f"{type(vit).__name__} is no timm VisionTransformer: choose a ViT, e.g. vit_base_patch16_224.")
        self.weights_sha256 = weights_sha256
        self.vit = vit.requires_grad_(False).eval()
        attention = getattr(vit.blocks[0], "attn", None)
        if attention is None or not isinstance(vit.patch_embed, PatchEmbed):
            part = type(vit.blocks[0] if attention is None else vit.patch_embed).__name__
            raise UnsupportedError(f"vpbench needs plain transformer blocks on plain patches, and this backbone has {part}.")
        size, patch = vit.patch_embed.img_size, vit.patch_embed.patch_size
        if size[0] != size[1] or patch[0] != patch[1]:
            raise UnsupportedError(f"vpbench needs square images and patches, not {size} and {patch} pixels.")
        self.shape = BackboneShape(
            family=self.family, image_size=size[0], patch_size=patch[0], width=vit.embed_dim, depth=len(vit.blocks),
            heads=attention.num_heads, prefix=vit.num_prefix_tokens,
            channels=vit.patch_embed.proj.in_channels,
        )  # fmt: skip

    @property
    def feature_width(self) -> int:
        """Width of what :meth:`pool` returns."""
        return int(self.vit.num_features)

    def embed(self, images: Tensor) -> Tokens:
        """Normalised images (B, C, S, S) to the sequence that enters block 0, position embeddings added."""
        x = self.vit._pos_embed(self.vit.patch_embed(images))
        return Tokens(self.vit.norm_pre(self.vit.patch_drop(x)), self.shape.prefix)

    def block(self, index: int, tokens: Tokens) -> Tokens:
        """Run one block, 0 to L-1."""
        return replace(tokens, x=self.vit.blocks[index](tokens.x))

    def pool(self, tokens: Tokens) -> Tensor:
        """The features that the classifier reads, (B, feature_width): prompts dropped, final norm, timm's own pooling."""
        return self.vit.forward_head(self.vit.norm(tokens.drop_prompts().x), pre_logits=True)

    def forward(self, images: Tensor) -> Tensor:
        """Features of the plain, unprompted model."""
        tokens = self.embed(images)
        for index in range(self.shape.depth):
            tokens = self.block(index, tokens)
        return self.pool(tokens)

    def use_fused_attention(self, fused: bool) -> None:
        """Choose the attention kernel; both compute the same function."""
        for module in self.vit.modules():
            if hasattr(module, "fused_attn"):
                module.fused_attn = fused

    def prompt_keys_values(self, scope: Scope, block: int, provide: Callable[[], tuple[Tensor, Tensor]]) -> None:
        """See :meth:`vpbench.interface.Scope.prompt_keys_values`."""
        parent = self.vit.blocks[block]
        scope.replace(parent, "attn", KeyValuePromptedAttention(self._attention(block), provide))

    def add_to_prompts(self, scope: Scope, block: int, site: str, values: nn.Parameter) -> None:
        """See :meth:`vpbench.interface.Scope.add_to_prompts`."""
        parent = self.vit.blocks[block]
        module = {"norm1": parent.norm1, "qkv": self._attention(block).qkv, "attention": parent.attn}[site]
        front, count = self.shape.prefix, len(values)

        def add(_module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
            return F.pad(values.to(output.dtype), (0, 0, front, output.shape[1] - front - count)) + output

        scope.hook(module.register_forward_hook(add))

    def watch_class_attention(self, scope: Scope) -> ClassAttentionRow:
        """See :meth:`vpbench.interface.Scope.watch_class_attention`."""
        if self.vit.cls_token is None:
            raise UnsupportedError("this method reads the class token's attention, and the backbone has no class token.")
        row = ClassAttentionRow([self._attention(index) for index in range(self.shape.depth)])
        for handle in row.handles:
            scope.hook(handle)
        return row

    def _attention(self, block: int) -> Attention:
        attention = self.vit.blocks[block].attn
        if not isinstance(attention, Attention):
            raise UnsupportedError(f"this method needs timm's plain attention; the backbone has {type(attention).__name__}.")
        return attention


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
        inner, (images, length, _) = self.inner, x.shape
        qkv = inner.qkv(x).reshape(images, length, 3, inner.num_heads, inner.head_dim).permute(2, 0, 3, 1, 4)
        query, key, value = qkv.unbind(0)
        query, key = inner.q_norm(query), inner.k_norm(key)
        key_prompts, value_prompts = (prompts.to(key.dtype).expand(images, -1, -1, -1) for prompts in self.provide())
        key, value = torch.cat([key_prompts, key], 2), torch.cat([value_prompts, value.to(key.dtype)], 2)
        if inner.fused_attn:
            mixed = F.scaled_dot_product_attention(query, key, value)
        else:
            mixed = (query * inner.scale @ key.transpose(-2, -1)).softmax(-1) @ value
        mixed = inner.norm(mixed.transpose(1, 2).reshape(images, length, -1))
        if getattr(inner, "gate", None) is not None:  # older versions of timm have none
            mixed = mixed * inner.gate(x).sigmoid()
        return inner.proj_drop(inner.proj(mixed))


class ClassAttentionRow:
    """The class token's attention row per block, computed on demand from what the block's own projection gave.

    Fused kernels return no weights, so the output of the frozen query-key-value projection is kept for each block until
    the next forward pass, and only the class token's query is used.
    """

    def __init__(self, attentions: list[Attention]) -> None:
        self._attentions = attentions
        self._projected: dict[int, Tensor] = {}
        self.handles = [self._watch(index, attention) for index, attention in enumerate(attentions)]

    def _watch(self, index: int, attention: Attention) -> torch.utils.hooks.RemovableHandle:
        def keep(_module: nn.Module, _inputs: object, output: Tensor) -> None:
            self._projected[index] = output.detach()

        return attention.qkv.register_forward_hook(keep)

    def __call__(self, block: int) -> Tensor:
        """Softmax weights over all keys, (B, heads, T), float32 or wider; reading a block forgets it."""
        attention, projected = self._attentions[block], self._projected.pop(block)
        with torch.no_grad(), full_precision(projected):
            projected = projected.float() if projected.dtype in (torch.bfloat16, torch.float16) else projected
            images, length, _ = projected.shape
            split = projected.view(images, length, 3, attention.num_heads, attention.head_dim)
            query = attention.q_norm(split[:, :1, 0].transpose(1, 2))
            key = attention.k_norm(split[:, :, 1].transpose(1, 2))
            return (query * attention.scale @ key.transpose(-2, -1)).softmax(-1)[:, :, 0]
