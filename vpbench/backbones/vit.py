"""The adapter over timm's ``VisionTransformer``: timm's own parts, called one after the other."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any, ClassVar

import torch.nn.functional as F
from timm.layers import Attention, PatchEmbed
from timm.models import VisionTransformer
from timm.models.eva import EvaBlockPostNorm
from timm.models.vision_transformer import ResPostBlock
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from vpbench.backbones.attention import ClassAttentionRow, KeyValuePromptedAttention, inner_attention
from vpbench.backbones.base import Backbone, Wanted
from vpbench.backbones.frozen import freeze_linears
from vpbench.backbones.lean import has_lean_form, run_lean
from vpbench.core.errors import UnsupportedError
from vpbench.interface import BackboneShape, ClassAttention, Scope, Tokens
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
        freeze_linears(vit)
        self._rows: OrderedDict[int, ClassAttentionRow] = OrderedDict()
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

    @property
    def pooled(self) -> Wanted:
        """What of the last block's output :meth:`pool` reads."""
        if self.pool_prompts:
            return "all"
        return "class" if self.vit.global_pool == "token" and self.vit.attn_pool is None else "rest"

    def embed(self, images: Tensor) -> Tokens:
        """Normalised images (B, C, S, S) to the sequence that enters block 0, position embeddings added."""
        x = self.vit._pos_embed(self.vit.patch_embed(images))
        return Tokens(self.vit.norm_pre(self.vit.patch_drop(x)), self.shape.prefix)

    def run_block(self, index: int, tokens: Tokens) -> Tokens:
        """One of timm's blocks on the whole sequence."""
        block = self.vit.blocks[index]
        with ExitStack() as watched:
            for row in self._rows.values():
                watched.enter_context(row.watching(index, inner_attention(block)))
            return tokens.with_values(block(tokens.x))

    def run_lean(self, index: int, tokens: Tokens, wanted: Wanted) -> Tokens:
        """See :mod:`vpbench.backbones.lean`; timm's own block where there is no such form."""
        block = self.vit.blocks[index]
        if not has_lean_form(block) or (wanted == "rest" and not tokens.prompts):
            return self.run_block(index, tokens)
        return run_lean(block, tokens, wanted == "class", [partial(row.keep, index) for row in self._rows.values()])

    def pool(self, tokens: Tokens) -> Tensor:
        """The features that the classifier reads, (B, feature_width): prompts dropped, final norm, timm's own pooling."""
        x = tokens.x if self.pool_prompts else tokens.rest
        return self.vit.forward_head(self.vit.norm(x), pre_logits=True)

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
        for block in range(self.shape.depth):
            self._attention(block)  # raises where its parts cannot be read
        row, handle = ClassAttentionRow(lambda: self.recomputing), RemovableHandle(self._rows)
        self._rows[handle.id] = row
        scope.hook(handle)
        return row

    def last_parameters(self, blocks: int) -> list[nn.Parameter]:
        """See :meth:`vpbench.interface.Scope.train_last`; the final norm is the one that stands before or behind the pooling."""
        vit = self.vit
        last = [*vit.blocks[self.shape.depth - blocks :], vit.norm, vit.fc_norm]
        return [parameter for module in last for parameter in module.parameters()]

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
