"""The adapter over timm's ``SwinTransformer``: timm's own parts, with prompts in every window.

How prompts meet windows follows VPT's released Swin (KMnP/vpt src/models/vit_prompt/swin_transformer.py) in all but one
point: its windows are ordered by image and its prompts by window, which mixes the prompts of a batch's images as soon as
these differ. Here both are ordered by image.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import timm
import torch
import torch.nn.functional as F
from timm.layers import PatchEmbed
from timm.models import SwinTransformer
from timm.models.swin_transformer import SwinTransformerBlock, WindowAttention, window_partition, window_reverse
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from vpbench.backbones.base import Backbone, Needed, linear_widths
from vpbench.backbones.frozen_linear import freeze_linears
from vpbench.backbones.positions import check_built_size
from vpbench.core.errors import UnsupportedError
from vpbench.interface import BackboneShape, Scope, Stage, Tokens, full_precision
from vpbench.interface.scope import Affine, Site

KeysValues = Callable[[], tuple[Tensor, Tensor]]


class SwinAdapter(Backbone):
    """A frozen Swin Transformer whose sequence can be edited between its blocks.

    ``adapter(x)`` equals ``swin(x)`` without a classifier, bit by bit. Patch tokens are a flat sequence here; blocks are
    counted through all stages. With N prompts in the sequence, a block

    - normalises and projects prompts and patch tokens alike (``qkv`` sees patch tokens in the order of the shifted map), and
      prepends the prompts to every window's tokens;
    - gives rows and columns of prompts no relative position bias and keeps them out of the shift mask;
    - averages what the windows made of a prompt, and adds attention and MLP to prompts as to patch tokens.

    Patch merging normalises and reduces four copies of a prompt, side by side.

    Args:
        swin: any ``timm.models.SwinTransformer`` (``num_classes=0``); it is frozen and put into evaluation mode.
        weights_sha256: of the file that its weights came from, None for random ones.
        pool_prompts: whether the last prompts are part of the final mean, as in VPT's released code.

    Raises:
        UnsupportedError: for a timm model of another family, with another stem, other than square, or without pooling; and
            where the installed timm cannot do the image size.
    """

    family = "swin"

    def __init__(self, swin: nn.Module, weights_sha256: str | None = None, *, pool_prompts: bool = False) -> None:
        super().__init__()
        if not isinstance(swin, SwinTransformer):
            raise UnsupportedError(
                f"{type(swin).__name__} is no timm SwinTransformer: choose one, e.g. swin_base_patch4_window7_224."
            )
        if not isinstance(swin.patch_embed, PatchEmbed):
            raise UnsupportedError(f"vpbench needs plain patches, and this backbone has {type(swin.patch_embed).__name__}.")
        size, patch = swin.patch_embed.img_size, swin.patch_embed.patch_size
        if size[0] != size[1] or patch[0] != patch[1]:
            raise UnsupportedError(f"vpbench needs square images and patches, not {size} and {patch} pixels.")
        if not swin.head.global_pool.pool_type:
            raise UnsupportedError("vpbench needs one feature vector per image, and this backbone has global_pool=''.")
        if pool_prompts and swin.head.global_pool.pool_type != "avg":
            raise UnsupportedError("pool_prompts needs a backbone that averages its tokens (global_pool='avg').")
        self.weights_sha256, self.pool_prompts = weights_sha256, pool_prompts
        self.swin: Any = swin.requires_grad_(False).eval()
        freeze_linears(swin)
        self._blocks: list[SwinTransformerBlock] = [block for layer in swin.layers for block in layer.blocks]
        self._keys_values: list[OrderedDict[int, KeysValues]] = [OrderedDict() for _ in self._blocks]
        self._observers: OrderedDict[int, ReceivedWeights] = OrderedDict()
        self.shape = BackboneShape(
            family=self.family, image_size=size[0], patch_size=patch[0], width=self._blocks[0].dim, depth=len(self._blocks),
            heads=self._blocks[0].attn.num_heads, prefix=0, channels=swin.patch_embed.proj.in_channels,
            stages=tuple(_stages(swin)),
        )  # fmt: skip
        self._check_maps()

    def _check_maps(self) -> None:
        """Versions of timm before 1.0.31 take half of an odd map to be one less than it is, and shift and mask its windows
        accordingly, or fail."""
        for stage, layer in zip(self.shape.stages, self.swin.layers):
            if any(block.input_resolution != (stage.grid, stage.grid) for block in layer.blocks):
                step = self.shape.patch_size * 2 ** (len(self.shape.stages) - 1)
                raise UnsupportedError(
                    f"timm {timm.__version__} cannot merge the patches of {self.shape.image_size} px images, whose number is odd"
                    f" on the way: choose a multiple of {step} px, or install timm 1.0.31 or newer."
                )

    @property
    def feature_width(self) -> int:
        """Width of what :meth:`pool` returns."""
        return int(self.swin.num_features)

    @property
    def timm_model(self) -> nn.Module:
        """The frozen model of timm."""
        model: nn.Module = self.swin
        return model

    @property
    def pooled(self) -> Needed:
        """Which tokens of the last block's output :meth:`pool` uses."""
        return "all" if self.pool_prompts else "image"

    def embed(self, images: Tensor) -> Tokens:
        """Normalised images (B, C, S, S) to the sequence that enters block 0; a Swin has no position embeddings."""
        check_built_size(self.shape, images)
        return Tokens(self.edited("patch_embed", None, images, lambda x: self.swin.patch_embed(x).flatten(1, 2)), 0)

    def run_block(self, index: int, tokens: Tokens) -> Tokens:
        """One block: timm's own where nothing is prompted, edited or observed."""
        block = self._blocks[index]
        if not (tokens.num_prompts or self._keys_values[index] or self._observers or self.has_edits(index)):
            return tokens.with_values(block(self._on_grid(index, tokens.x)).flatten(1, 2))

        def attention(h: Tensor) -> Tensor:
            return self.edited("attention", index, h, lambda x: self._attention(index, x, tokens.num_prompts))

        x = self.add_branch("attention_branch", index, tokens.x, block.drop_path1(attention(block.norm1(tokens.x))))
        return tokens.with_values(self.add_branch("mlp_branch", index, x, block.drop_path2(block.mlp(block.norm2(x)))))

    def enter_stage(self, block: int, tokens: Tokens) -> Tokens:
        """Patch merging: a quarter of the tokens, twice as wide."""
        merging, side = self._merging(block), self.shape.stage_of(block - 1).grid
        merged = Tokens(merging(tokens.patch_tokens.unflatten(1, (side, side))).flatten(1, 2), 0)
        return merged.with_prompts(self.prompts_at_next_stage(block, tokens.prompt_tokens)) if tokens.num_prompts else merged

    def prompts_at_next_stage(self, block: int, prompts: Tensor) -> Tensor:
        """See :meth:`vpbench.interface.Scope.prompts_at_next_stage`: four copies of a prompt are merged as neighbours are."""
        merging = self._merging(block)
        reduced: Tensor = merging.reduction(merging.norm(torch.cat([prompts] * 4, dim=-1)))
        return reduced

    def pool(self, tokens: Tokens) -> Tensor:
        """The features that the classifier reads, (B, feature_width): final norm and timm's own pooling, over the patch
        tokens alone unless ``pool_prompts`` is set."""
        if tokens.num_prompts and self.pool_prompts:
            maps = tokens.x.unsqueeze(2)  # one long column, for which a mean is the same
        else:
            maps = self._on_grid(self.shape.depth - 1, tokens.patch_tokens)
        return self.swin.forward_head(self.swin.norm(maps), pre_logits=True)

    def final_norm(self, block: int, tokens: Tokens) -> Tensor:
        """Patch tokens out of a block of the last stage, (B, M, D), behind the final norm."""
        if self.shape.stage_of(block) != self.shape.stages[-1]:
            raise self._cannot(f"has its final norm behind the last stage, and block {block} belongs to an earlier one")
        normed: Tensor = self.swin.norm(tokens.patch_tokens)
        return normed

    def prompt_keys_values(self, scope: Scope, block: int, provide: KeysValues) -> None:
        """See :meth:`vpbench.interface.Scope.prompt_keys_values`."""
        handle = RemovableHandle(self._keys_values[block])
        self._keys_values[block][handle.id] = provide
        scope.record([handle])

    def watch_received_attention(self, scope: Scope) -> ReceivedWeights:
        """See :meth:`vpbench.interface.Scope.watch_received_attention`."""
        handle, weights = RemovableHandle(self._observers), ReceivedWeights(lambda: self.recomputing)
        self._observers[handle.id] = weights
        scope.record([handle])
        return weights

    def block_module(self, block: int) -> nn.Module:
        """timm's module of a block."""
        return self._blocks[block]

    def site_module(self, site: Site, block: int | None) -> nn.Module:
        """See :meth:`vpbench.interface.Scope.module`."""
        if block is None:
            return {"patch_embed": self.swin.patch_embed, "norm": self.swin.norm}[site]
        parent = self._blocks[block]
        owner = parent.attn if site in ("qkv", "proj") else parent.mlp if site in ("fc1", "fc2") else parent
        found = getattr(owner, {"attention": "attn"}.get(site, site), None)
        if found is None:
            raise UnsupportedError(f"this method needs the site {site}, and this backbone has no such module.")
        module: nn.Module = found
        return module

    def affine(self, site: Site, block: int | None) -> list[Affine]:
        """See :meth:`vpbench.interface.Scope.fold`."""
        if site != "patch_embed":
            return super().affine(site, block)
        embed = self.swin.patch_embed  # its norm, where there is one, comes last
        return [Affine.plain(embed.proj if isinstance(embed.norm, nn.Identity) else embed.norm)]

    def _merging(self, block: int) -> Any:
        stage = self.shape.stage_of(block)
        return self.swin.layers[self.shape.stages.index(stage)].downsample

    def _on_grid(self, index: int, patches: Tensor) -> Tensor:
        """Patch tokens (B, M, D) as a map (B, H, W, D)."""
        side = self.shape.stage_of(index).grid
        return patches.unflatten(1, (side, side))

    def _attention(self, index: int, x: Tensor, prompts: int) -> Tensor:
        """Window attention of normalised tokens (B, N + M, D), prompts prepended to every window."""
        block = self._blocks[index]
        attention: WindowAttention = block.attn
        maps = _shifted_and_padded(block, self._on_grid(index, x[:, prompts:]))
        height, width = maps.shape[1:3]
        projected = attention.qkv(torch.cat([x[:, :prompts], maps.flatten(1, 2)], dim=1))
        windows = _in_windows(block, projected[:, prompts:].unflatten(1, (height, width)))
        in_front = projected[:, None, :prompts].expand(-1, windows.shape[1], -1, -1)
        query, key, value = (
            part.transpose(2, 3)  # (B, windows, heads, N + area, D / heads)
            for part in torch.cat([in_front, windows], dim=2).unflatten(-1, (3, attention.num_heads, -1)).unbind(3)
        )
        for provide in self._keys_values[index].values():
            more = [part.to(key.dtype).expand(*key.shape[:2], -1, -1, -1) for part in provide()]
            key, value = torch.cat([more[0], key], dim=3), torch.cat([more[1], value], dim=3)
        bias = _bias(block, maps, prompts, key.shape[3])
        for observer in self._observers.values():
            observer.keep(index, self._received(index, query[:, :, :, prompts:] * attention.scale, key, bias[..., prompts:, :]))
        mixed = _mixed(attention, query, key, value, bias).transpose(2, 3).flatten(3)
        maps = window_reverse(
            mixed[:, :, prompts:].flatten(0, 1).unflatten(1, block.window_size), block.window_size, height, width
        )
        patches = self._unshifted(index, maps).flatten(1, 2)
        joined: Tensor = attention.proj(torch.cat([mixed[:, :, :prompts].mean(1), patches], dim=1))
        return joined

    def _unshifted(self, index: int, maps: Tensor) -> Tensor:
        """The inverse of :func:`_shifted_and_padded`."""
        side, shift = self.shape.stage_of(index).grid, self._blocks[index].shift_size
        return torch.roll(maps[:, :side, :side], shifts=shift, dims=(1, 2))

    def _received(self, index: int, query: Tensor, key: Tensor, bias: Tensor) -> Tensor:
        """Attention that each patch token receives from those of its window, mean over heads, (B, M)."""
        block, side = self._blocks[index], self.shape.stage_of(index).grid
        with torch.no_grad(), full_precision(query):
            query, key = (part.to(torch.promote_types(part.dtype, torch.float32)) for part in (query, key))
            weights = (query @ key.transpose(-2, -1) + bias).softmax(-1)[..., -block.window_area :].mean(2)
            maps = _shifted_and_padded(block, torch.ones(1, side, side, 1, dtype=weights.dtype, device=weights.device))
            real = _in_windows(block, maps)  # 0 for the queries of padding
            received = (weights * real).sum(2) / real.sum(2).clamp(min=1)
            windows = received.flatten(0, 1).unflatten(1, block.window_size).unsqueeze(-1)
            return self._unshifted(index, window_reverse(windows, block.window_size, *maps.shape[1:3])).flatten(1)


class ReceivedWeights:
    """What :meth:`SwinAdapter.watch_received_attention` returns; a block can be read once per forward pass."""

    def __init__(self, recomputing: Callable[[], bool]) -> None:
        self._recomputing = recomputing
        self._weights: dict[int, Tensor] = {}

    def keep(self, block: int, weights: Tensor) -> None:
        """Keep a block's weights (B, M), unless it is run again only for the backward pass."""
        if not self._recomputing():
            self._weights[block] = weights

    def __call__(self, block: int) -> Tensor:
        """Weights of the patch tokens, (B, M), float32 or wider."""
        return self._weights.pop(block)


def _stages(swin: SwinTransformer) -> list[Stage]:
    stages: list[Stage] = []
    first, grid = 0, swin.patch_embed.grid_size[0]
    for layer in swin.layers:
        block = layer.blocks[0]
        grid = -(-grid // 2) if stages else grid  # merging pads an odd map
        stages.append(Stage(first, len(layer.blocks), block.dim, block.attn.num_heads, grid, linear_widths(block)))
        first += len(layer.blocks)
    return stages


def _shifted_and_padded(block: SwinTransformerBlock, maps: Tensor) -> Tensor:
    """Maps (B, H, W, D) rolled by the block's shift, then zeros up to a multiple of the window."""
    maps = torch.roll(maps, shifts=[-shift for shift in block.shift_size], dims=(1, 2))
    down, right = (-side % window for side, window in zip(maps.shape[1:3], block.window_size))
    return F.pad(maps, (0, 0, 0, right, 0, down))


def _in_windows(block: SwinTransformerBlock, maps: Tensor) -> Tensor:
    """Maps (B, H, W, D) to (B, windows, area, D)."""
    return window_partition(maps, block.window_size).flatten(1, 2).unflatten(0, (maps.shape[0], -1))


def _bias(block: SwinTransformerBlock, maps: Tensor, prompts: int, keys: int) -> Tensor:
    """Relative positions and shift mask, (windows or 1, heads, N + area, keys); 0 for prompts, which come first."""
    bias: Tensor = block.attn._get_rel_pos_bias()
    mask = block.get_attn_mask(maps) if getattr(block, "dynamic_mask", False) else block.attn_mask
    if mask is not None:
        bias = bias + mask.unsqueeze(1)
    return F.pad(bias, (keys - bias.shape[-1], 0, prompts, 0))


def _mixed(attention: WindowAttention, query: Tensor, key: Tensor, value: Tensor, bias: Tensor) -> Tensor:
    """Values mixed by attention, all of shape (B, windows, heads, tokens, D / heads)."""
    if not attention.fused_attn:
        return (query * attention.scale @ key.transpose(-2, -1) + bias).softmax(-1) @ value
    images, windows = query.shape[:2]
    mask = bias.to(query.dtype).expand(images, windows, -1, -1, -1).flatten(0, 1)
    query, key, value = (part.flatten(0, 1) for part in (query, key, value))
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=attention.scale).unflatten(
        0, (images, windows)
    )
