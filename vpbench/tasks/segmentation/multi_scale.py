"""Multi-scale and flip evaluation: the sizes, and the mean of the probabilities."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from vpbench.interface import full_precision
from vpbench.tasks.segmentation.dense_loss import resized_logits

SizeRule = Literal["setr", "mmseg", "mmseg1"]
"""How large an image becomes at a ratio r.

``setr`` (fudan-zvg/SETR): short side max(short, int(short r)), long side unbounded, so that every window is a whole crop;
``mmseg`` (mmsegmentation 0.x): within (int(long r), int(short r)); ``mmseg1`` (mmsegmentation 1.x): the original size times r."""
SIZE_RULES: tuple[str, ...] = get_args(SizeRule)
RATIOS = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
"""Of the released multi-scale configurations."""

Size = tuple[int, int]  # height, width


def rescaled_within(size: Size, long: int, short: int) -> Size:
    """The largest size of the same aspect within a long and a short side, rounded (mmcv's ``rescale_size``)."""
    factor = min(long / max(size), short / min(size))
    return _times(size, factor)


def size_at(size: Size, ratio: float, rule: SizeRule = "setr", short: int = 512, long: int = 2048) -> Size:
    """Height and width of an image at a ratio.

    Args:
        size: of the original image.
        ratio: r.
        rule: see :data:`SizeRule`.
        short: side at ratio 1, pixels.
        long: largest long side at ratio 1, pixels; of ``mmseg`` alone.
    """
    if rule == "setr":
        return _times(size, max(short, int(short * ratio)) / min(size))
    if rule == "mmseg":
        return rescaled_within(size, int(long * ratio), int(short * ratio))
    return _times(size, ratio)


def _times(size: Size, factor: float) -> Size:
    height, width = (max(1, int(side * factor + 0.5)) for side in size)
    return height, width


def single_scale_logits(logits: Callable[[Tensor], Tensor], image: Tensor, size: Size) -> Tensor:
    """Logits of one image of the set, resized to its original size, (1, K, H, W)."""
    return resized_logits(logits(image), size)


def multi_scale_probabilities(
    logits: Callable[[Tensor], Tensor], images: Sequence[Tensor], size: Size, flip: bool = True
) -> Tensor:
    """Mean of the probabilities of several sizes, each as it is and mirrored.

    Args:
        logits: maps (1, C, h, w) to logits (1, K, h, w), e.g. by windows.
        images: one image of the set, normalised, in several sizes.
        size: of the original image, to which the logits are resized before the softmax.
        flip: average with the mirrored images, whose logits are mirrored back.

    Returns:
        (1, K, H, W), float32 or wider.
    """
    total: Tensor | None = None
    passes = [(image, mirrored) for image in images for mirrored in ((False, True) if flip else (False,))]
    for image, mirrored in passes:
        found = logits(image.flip(-1) if mirrored else image)
        with full_precision(found):
            found = resized_logits(found.flip(-1) if mirrored else found, size)
            probabilities = found.to(torch.promote_types(found.dtype, torch.float32)).softmax(1)
        total = probabilities if total is None else total.add_(probabilities)
    assert total is not None
    return total / len(passes)


# Resampling of images and label maps as OpenCV does it, which the released pipelines use


def resized_image(image: Tensor, size: Size) -> Tensor:
    """An image (C, H, W) of float numbers in another size: bilinear, half-pixel centres, not smoothed when it shrinks."""
    return F.interpolate(image[None], size=size, mode="bilinear", align_corners=False, antialias=False)[0]


def resized_labels(labels: Tensor, size: Size) -> Tensor:
    """A label map (H, W) of integers in another size: the nearest pixel, source index floor(i * old / new)."""
    return F.interpolate(labels[None, None].float(), size=size, mode="nearest")[0, 0].to(labels.dtype)
