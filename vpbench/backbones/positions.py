"""Absolute position embeddings on another patch grid than the one they were trained on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch.nn.functional as F
from timm.layers import resample_abs_pos_embed
from torch import Tensor

from vpbench.core.errors import UnsupportedError
from vpbench.interface import BackboneShape
from vpbench.spec.run_spec import PosResample


def resampled(positions: Tensor, size: tuple[int, int], prefix: int, how: PosResample, old: tuple[int, int]) -> Tensor:
    """Position embeddings of the patches resampled as a map with half-pixel centres; those of prefix tokens stay.

    Args:
        positions: (1, prefix + old h * old w, D).
        size: rows and columns of the new grid.
        prefix: rows in front that belong to class and register tokens.
        how: see :data:`vpbench.spec.run_spec.PosResample`.
        old: rows and columns of the present grid.

    Returns:
        (1, prefix + h w, D), with gradient.
    """
    found: Tensor = resample_abs_pos_embed(
        positions, list(size), list(old), prefix, interpolation=how, antialias=how == "bicubic"
    )
    return found


def padded(images: Tensor, patch: int) -> Tensor:
    """Images (B, C, H, W) with 0 at the right and below, up to a multiple of the patch, as mmsegmentation pads them."""
    height, width = images.shape[-2:]
    return F.pad(images, (0, -width % patch, 0, -height % patch)) if height % patch or width % patch else images


@contextmanager
def resized_input(vit: Any, images: Tensor, how: PosResample) -> Iterator[None]:
    """In the block, timm's ViT takes images of another size than it was built for.

    Raises:
        UnsupportedError: when a side is no multiple of the patch.
    """
    embed, size = vit.patch_embed, tuple(images.shape[-2:])
    if size == tuple(embed.img_size) or vit.dynamic_img_size:
        yield
        return
    patch = embed.patch_size
    if size[0] % patch[0] or size[1] % patch[1]:
        raise UnsupportedError(f"images of {size[0]} x {size[1]} pixels do not divide into patches of {patch[0]}: pad them.")
    grid = (size[0] // patch[0], size[1] // patch[1])
    before = (vit.pos_embed, embed.img_size, embed.grid_size)
    embed.img_size, embed.grid_size = size, grid
    if before[0] is not None:
        prefix = 0 if vit.no_embed_class else vit.num_prefix_tokens
        vit._parameters["pos_embed"] = resampled(before[0], grid, prefix, how, before[2])
    try:
        yield
    finally:
        vit._parameters["pos_embed"], embed.img_size, embed.grid_size = before


def check_built_size(shape: BackboneShape, images: Tensor) -> None:
    """For families that take images of one size only.

    Raises:
        UnsupportedError: for another size.
    """
    height, width = images.shape[-2:]
    if (height, width) != (shape.image_size, shape.image_size):
        raise UnsupportedError(
            f"this backbone takes images of {shape.image_size} x {shape.image_size} pixels, not {height} x {width}: predict in"
            " windows of that size."
        )
