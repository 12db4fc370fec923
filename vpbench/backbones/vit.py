"""The adapter over timm's ``VisionTransformer``: timm's own parts, called one after the other."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

from timm.layers import Attention, PatchEmbed
from timm.models import VisionTransformer
from timm.models.eva import EvaBlockPostNorm
from timm.models.vision_transformer import ResPostBlock
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from vpbench.backbones.attention import ClassAttentionRow, OpenAttention, inner_attention
from vpbench.backbones.base import LAST_OF_BRANCH, Backbone, Needed, linear_widths
from vpbench.backbones.edits import hook_edit
from vpbench.backbones.frozen_linear import freeze_linears
from vpbench.backbones.needed import can_skip_tokens, run_needed_tokens
from vpbench.backbones.positions import resized_input
from vpbench.core.errors import UnsupportedError
from vpbench.interface import BackboneShape, ClassAttention, Scope, Stage, Tokens
from vpbench.interface.scope import Affine, Edit, Site
from vpbench.spec.run_spec import PosResample


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
    pos_resample: PosResample = "bilinear"  # of images that are not of the size that the model was built for

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
        widths = linear_widths(vit.blocks[0])
        stage = Stage(0, len(vit.blocks), vit.embed_dim, attention.num_heads, size[0] // patch[0], widths)
        self.shape = BackboneShape(
            family=self.family, image_size=size[0], patch_size=patch[0], width=stage.width, depth=stage.depth,
            heads=stage.heads, prefix=vit.num_prefix_tokens, channels=vit.patch_embed.proj.in_channels, stages=(stage,),
        )  # fmt: skip

    @property
    def feature_width(self) -> int:
        """Width of what :meth:`pool` returns."""
        return int(self.vit.num_features)

    @property
    def timm_model(self) -> nn.Module:
        """The frozen model of timm."""
        model: nn.Module = self.vit
        return model

    @property
    def pooled(self) -> Needed:
        """Which tokens of the last block's output :meth:`pool` uses."""
        if self.pool_prompts or any(not edit.tokenwise for edit in self.edits("norm", None)):
            return "all"
        return "class" if self.vit.global_pool == "token" and self.vit.attn_pool is None else "image"

    def embed(self, images: Tensor) -> Tokens:
        """Normalised images (B, C, S, S) to the sequence that enters block 0, position embeddings added.

        Images of another size (B, C, H, W), for windows and whole images of dense tasks, get resampled position embeddings.
        """
        with resized_input(self.vit, images, self.pos_resample):
            x = self.vit._pos_embed(self.edited("patch_embed", None, images, self.vit.patch_embed))
        return Tokens(self.vit.norm_pre(self.vit.patch_drop(x)), self.shape.prefix)

    def run_block(self, index: int, tokens: Tokens) -> Tokens:
        """One of timm's blocks on the whole sequence."""
        return tokens.with_values(self._edited_block(index, tokens.x, self.vit.blocks[index]))

    def _edited_block(self, index: int, x: Tensor, call: Callable[..., Tensor], **arguments: Any) -> Tensor:
        """timm's block; where a method edits its attention or a residual branch, the same parts one after the other.

        Args:
            call: timm's block.
            arguments: of its attention.
        """
        if not self.has_edits(index, ("attention", "attention_branch", "mlp_branch")):
            return call(x, **arguments)
        block = self.vit.blocks[index]

        def attention(h: Tensor) -> Tensor:
            return self.edited("attention", index, h, partial(block.attn, **arguments))

        if isinstance(block, ResPostBlock | EvaBlockPostNorm):
            x = self.add_branch("attention_branch", index, x, block.drop_path1(block.norm1(attention(x))))
            return self.add_branch("mlp_branch", index, x, block.drop_path2(block.norm2(block.mlp(x))))
        x = self.add_branch("attention_branch", index, x, block.drop_path1(_scaled(block, 1, attention(block.norm1(x)))))
        return self.add_branch("mlp_branch", index, x, block.drop_path2(_scaled(block, 2, block.mlp(block.norm2(x)))))

    def run_needed(self, index: int, tokens: Tokens, needed: Needed) -> Tokens:
        """See :mod:`vpbench.backbones.needed`; timm's own block where there is no such form."""
        block = self.vit.blocks[index]
        if (
            not can_skip_tokens(block)
            or (needed == "image" and tokens.prompts is None)
            or not self._branches_are_tokenwise(index)
        ):
            return self.run_block(index, tokens)
        observers = [partial(row.keep, index) for row in self._rows.values()]
        return run_needed_tokens(block, tokens, needed == "class", observers, partial(self._add_branch_of, index))

    def _branches_are_tokenwise(self, index: int) -> bool:
        edits = [*self.edits("attention_branch", index), *self.edits("mlp_branch", index)]
        return not self.edits("attention", index) and all(edit.tokenwise for edit in edits)

    def _add_branch_of(self, index: int, site: Site, x: Tensor, y: Tensor) -> Tensor:
        return self.add_branch(site, index, x, y)

    def pool(self, tokens: Tokens) -> Tensor:
        """The features that the classifier reads, (B, feature_width): prompts dropped, final norm, timm's own pooling."""
        x = tokens.x if self.pool_prompts else tokens.image_tokens
        return self.vit.forward_head(self.vit.norm(x), pre_logits=True)

    def map_size(self, images: Tensor, block: int) -> tuple[int, int]:
        """Rows and columns of the patch grid for images (B, C, H, W)."""
        height, width = images.shape[-2:]
        return height // self.shape.patch_size, width // self.shape.patch_size

    def final_norm(self, block: int, tokens: Tokens) -> Tensor:
        """Patch tokens out of a block, (B, M, D), behind the norm that stands before or behind the pooling."""
        normed: Tensor = self.site_module("norm", None)(tokens.image_tokens)
        return normed[:, tokens.prefix :]

    def block_module(self, block: int) -> nn.Module:
        """timm's module of a block."""
        module: nn.Module = self.vit.blocks[block]
        return module

    def site_module(self, site: Site, block: int | None) -> nn.Module:
        """See :meth:`vpbench.interface.Scope.module`; ``norm`` is the one that stands before or behind the pooling."""
        found: Any
        if block is None:
            final = self.vit.fc_norm if isinstance(self.vit.norm, nn.Identity) else self.vit.norm
            found = {"patch_embed": self.vit.patch_embed, "norm": final}.get(site)
        else:
            parent = self.vit.blocks[block]
            self._check_site(parent, site)
            if site in ("qkv", "proj"):
                found = getattr(inner_attention(parent), site, None)
            elif site in ("fc1", "fc2"):
                found = getattr(parent.mlp, site, None)
            else:
                found = {"norm1": parent.norm1, "norm2": parent.norm2, "attention": parent.attn, "mlp": parent.mlp}.get(site)
        if found is None:
            raise UnsupportedError(f"this method needs the site {site}, and this backbone has no such module.")
        module: nn.Module = found
        return module

    def affine(self, site: Site, block: int | None) -> list[Affine]:
        """See :meth:`vpbench.interface.Scope.fold`."""
        if site == "patch_embed":
            if not isinstance(self.vit.patch_embed.norm, nn.Identity):
                raise self._cannot("whose patches are normalised takes no update of their projection")
            return [Affine.plain(self.vit.patch_embed.proj)]
        if block is not None and site in LAST_OF_BRANCH and isinstance(self.vit.blocks[block], ResPostBlock | EvaBlockPostNorm):
            norm = "norm1" if site == "attention_branch" else "norm2"
            return [Affine.plain(getattr(self.vit.blocks[block], norm))]
        return super().affine(site, block)

    def positions(self) -> tuple[Any, str]:
        """See :meth:`vpbench.interface.Scope.fold_positions`."""
        if self.vit.pos_embed is None:
            return super().positions()
        return self.vit, "pos_embed"

    def prompt_keys_values(self, scope: Scope, block: int, provide: Callable[[], tuple[Tensor, Tensor]]) -> None:
        """See :meth:`vpbench.interface.Scope.prompt_keys_values`."""
        opened = self._opened(scope, block)
        self._check_heads(opened.inner)
        opened.key_value_prompts = provide

    def edit_queries(self, scope: Scope, block: int, fn: Callable[[Tensor], Tensor]) -> None:
        """See :meth:`vpbench.interface.Scope.edit_queries`; every attention of timm calls ``q_norm``, be it the identity."""
        norm = getattr(inner_attention(self.vit.blocks[block]), "q_norm", None)
        if norm is None:
            raise self._cannot("lets methods edit queries where its attention has a norm for them, and this one has none")
        scope.record([hook_edit(norm, Edit(lambda _, query: fn(query), before=False, tokenwise=True))])

    def watch_class_attention(self, scope: Scope) -> ClassAttention:
        """See :meth:`vpbench.interface.Scope.watch_class_attention`."""
        self._check_class_token()
        row, handle = ClassAttentionRow(lambda: self.recomputing), RemovableHandle(self._rows)
        for block in range(self.shape.depth):
            self._opened(scope, block).observers = self._rows
        self._rows[handle.id] = row
        scope.record([handle])
        return row

    def _opened(self, scope: Scope, block: int) -> OpenAttention:
        """The block's attention, written out, in place of timm's."""
        parent = self.vit.blocks[block]
        if not isinstance(parent.attn, OpenAttention):
            scope.replace(parent, "attn", self._open(parent.attn, block))
        opened: OpenAttention = parent.attn
        return opened

    def _open(self, attention: nn.Module, block: int) -> OpenAttention:
        if not isinstance(attention, Attention):
            raise UnsupportedError(f"this method needs timm's plain attention; the backbone has {type(attention).__name__}.")
        return OpenAttention(attention, block)

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
        if site in ("norm1", "norm2") and isinstance(block, ResPostBlock | EvaBlockPostNorm):
            part = "attention" if site == "norm1" else "MLP"
            raise UnsupportedError(f"this method edits what goes into the {part}, and the backbone's blocks have no norm there.")


def _scaled(block: Any, branch: int, y: Tensor) -> Tensor:
    """A branch's output after layer scale; a ViT has a module for it, an EVA a parameter or none."""
    gamma = getattr(block, f"gamma_{branch}", None)
    if gamma is not None:
        return gamma * y
    scale = getattr(block, f"ls{branch}", None)
    return y if scale is None else scale(y)


def head_width(attention: Any) -> int:
    """Width of one head; not every version of timm's classes keeps it."""
    return int(attention.proj.in_features) // int(attention.num_heads)
