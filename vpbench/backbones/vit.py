"""The adapter over timm's ``VisionTransformer``: timm's own parts, called one after the other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from timm.layers import Attention, PatchEmbed
from timm.models import VisionTransformer
from timm.models.eva import EvaBlockPostNorm
from timm.models.vision_transformer import ResPostBlock
from torch import Tensor, nn

from vpbench.backbones.base import Backbone
from vpbench.core.errors import UnsupportedError
from vpbench.interface import BackboneShape, ClassAttention, Scope, Tokens, full_precision
from vpbench.interface.scope import Site


class ViTAdapter(Backbone):
    """A frozen ViT whose sequence can be edited between its blocks.

    ``adapter(x)`` equals ``vit(x)`` without a classifier, bit by bit.

    Args:
        vit: any ``timm.models.VisionTransformer`` (``num_classes=0``); it is frozen and put into evaluation mode.
        weights_sha256: of the file that its weights came from, None for random ones.
        pool_prompts: take the mean over patches and prompts, as the code released with VPT does on MAE's weights
            (KMnP/vpt src/models/vit_prompt/vit_mae.py); otherwise over patches alone.

    Raises:
        UnsupportedError: for a timm model of another family, with parallel blocks, or with a convolutional stem; or for
            ``pool_prompts`` on a model that takes no mean.
    """

    family = "vit"
    kind: ClassVar[Any] = VisionTransformer

    def __init__(self, vit: nn.Module, weights_sha256: str | None = None, *, pool_prompts: bool = False) -> None:
        super().__init__()
        self.weights_sha256 = weights_sha256
        name = type(vit).__name__
        if not isinstance(vit, self.kind):
            raise UnsupportedError(f"{name} is no timm {self.kind.__name__}: choose a ViT, e.g. vit_base_patch16_224.")
        attention = getattr(vit.blocks[0], "attn", None)
        if attention is None or not isinstance(vit.patch_embed, PatchEmbed):
            part = type(vit.blocks[0] if attention is None else vit.patch_embed).__name__
            raise UnsupportedError(f"vpbench needs plain transformer blocks on plain patches, and this backbone has {part}.")
        size, patch = vit.patch_embed.img_size, vit.patch_embed.patch_size
        if size[0] != size[1] or patch[0] != patch[1]:
            raise UnsupportedError(f"vpbench needs square images and patches, not {size} and {patch} pixels.")
        if pool_prompts and vit.global_pool != "avg":
            raise UnsupportedError(f"prompts can join a mean only, and this backbone pools by '{vit.global_pool}'.")
        self.vit: Any = vit.requires_grad_(False).eval()
        self.pool_prompts = pool_prompts
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

    def run_block(self, index: int, tokens: Tokens) -> Tokens:
        """One of timm's blocks on the whole sequence."""
        return replace(tokens, x=self.vit.blocks[index](tokens.x))

    def pool(self, tokens: Tokens) -> Tensor:
        """The features that the classifier reads, (B, feature_width): prompts dropped, final norm, timm's own pooling."""
        kept = tokens if self.pool_prompts else tokens.drop_prompts()
        return self.vit.forward_head(self.vit.norm(kept.x), pre_logits=True)

    def prompt_keys_values(self, scope: Scope, block: int, provide: Callable[[], tuple[Tensor, Tensor]]) -> None:
        """See :meth:`vpbench.interface.Scope.prompt_keys_values`."""
        parent = self.vit.blocks[block]
        attention = self._attention(block)
        self._check_heads(attention)
        scope.replace(parent, "attn", KeyValuePromptedAttention(attention, provide))

    def add_to_prompts(self, scope: Scope, block: int, site: Site, values: nn.Parameter) -> None:
        """See :meth:`vpbench.interface.Scope.add_to_prompts`."""
        parent = self.vit.blocks[block]
        self._check_site(parent, site)
        module = {"norm1": parent.norm1, "qkv": self._attention(block).qkv, "attention": parent.attn}[site]

        def add(_module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
            return self._added(output, values)

        scope.hook(module.register_forward_hook(add))

    def watch_class_attention(self, scope: Scope) -> ClassAttention:
        """See :meth:`vpbench.interface.Scope.watch_class_attention`."""
        self._check_class_token()
        attentions = [self._attention(index) for index in range(self.shape.depth)]
        row = ClassAttentionRow(attentions, lambda: self.recomputing)
        for handle in row.handles:
            scope.hook(handle)
        return row

    def _attention(self, block: int) -> Attention:
        attention = self.vit.blocks[block].attn
        if not isinstance(attention, Attention):
            raise UnsupportedError(f"this method needs timm's plain attention; the backbone has {type(attention).__name__}.")
        return attention

    def _added(self, output: Tensor, values: Tensor) -> Tensor:
        """``output`` (B, T, X) with ``values`` (N, X) added to the rows of the prompts."""
        front = self.shape.prefix
        return F.pad(values.to(output.dtype), (0, 0, front, output.shape[1] - front - len(values))) + output

    def _check_class_token(self) -> None:
        if self.vit.cls_token is None:
            raise UnsupportedError("this method reads the class token's attention, and the backbone has no class token.")

    def _check_heads(self, attention: Any) -> None:
        width = head_width(attention)
        if width != self.shape.head_width:
            raise UnsupportedError(
                f"this method's prompts for keys and values are {self.shape.head_width} wide per head, "
                f"and the backbone's heads are {width} wide."
            )

    def _check_site(self, block: nn.Module, site: Site) -> None:
        if site == "norm1" and isinstance(block, ResPostBlock | EvaBlockPostNorm):
            raise UnsupportedError(
                "this method edits what goes into the attention, and the backbone's blocks have no norm there."
            )


def head_width(attention: Any) -> int:
    """Width of one head; not every version of timm's classes keeps it."""
    return int(attention.proj.in_features) // int(attention.num_heads)


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

    def __init__(self, attentions: list[Attention], recomputing: Callable[[], bool] = lambda: False) -> None:
        self._attentions, self._recomputing = attentions, recomputing
        self._projected: dict[int, Tensor] = {}
        self.handles = [self._watch(index, attention) for index, attention in enumerate(attentions)]

    def _watch(self, index: int, attention: Attention) -> torch.utils.hooks.RemovableHandle:
        def keep(_module: nn.Module, _inputs: object, output: Tensor) -> None:
            if not self._recomputing():  # nobody reads it in a backward pass, so that it would only cost memory
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
