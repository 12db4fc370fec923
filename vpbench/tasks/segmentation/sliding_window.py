"""Dense predictions for images of any size, in windows of one."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from vpbench.core.errors import UsageError
from vpbench.tasks.segmentation.dense_loss import resized_logits

Predict = Callable[[Tensor], Tensor]
"""Normalised images (B, C, H, W) to logits (B, K, h, w) of any size."""


def window_spans(length: int, crop: int, stride: int) -> list[tuple[int, int]]:
    """Begin and end of the windows along one side, as mmsegmentation places them: the last one ends at the border.

    Args:
        length: of the side, pixels.
        crop: of a window; a shorter side is one window.
        stride: between two.
    """
    count = max(length - crop + stride - 1, 0) // stride + 1
    ends = [min(index * stride + crop, length) for index in range(count)]
    return [(max(end - crop, 0), end) for end in ends]


def sliding_logits(predict: Predict, images: Tensor, crop: int, stride: int, batch: int = 1) -> Tensor:
    """Logits of whole images: those of all windows summed up, divided by how often a pixel was covered; float32 or wider.

    Logits are averaged, not probabilities (mmsegmentation 1.2.2, mmseg/models/segmentors/encoder_decoder.py: slide_inference).

    Args:
        predict: logits of windows.
        images: normalised, (B, C, H, W).
        crop: side of a window, pixels.
        stride: between windows, pixels, at most ``crop``.
        batch: windows that are predicted at a time.

    Returns:
        (B, K, H, W).

    Raises:
        UsageError: when windows would leave gaps.
    """
    if not 0 < stride <= crop:
        raise UsageError(f"windows of {crop} px every {stride} px leave gaps: choose a stride from 1 to {crop}.")
    height, width = images.shape[-2:]
    spans = [
        (top, bottom, left, right)
        for top, bottom in window_spans(height, crop, stride)
        for left, right in window_spans(width, crop, stride)
    ]
    total: Tensor | None = None
    covered = images.new_zeros(1, 1, height, width, dtype=torch.promote_types(images.dtype, torch.float32))
    for start in range(0, len(spans), batch):
        together = spans[start : start + batch]
        windows = torch.cat([images[..., top:bottom, left:right] for top, bottom, left, right in together])
        logits = resized_logits(_wide(predict(windows)), (windows.shape[-2], windows.shape[-1]))
        if total is None:
            total = logits.new_zeros(len(images), logits.shape[1], height, width)
        for (top, bottom, left, right), part in zip(together, logits.split(len(images))):
            total[..., top:bottom, left:right] += part
            covered[..., top:bottom, left:right] += 1
    assert total is not None
    return total / covered


def whole_logits(predict: Predict, images: Tensor) -> Tensor:
    """Logits of whole images in one forward pass, resized to them, (B, K, H, W); float32 or wider.

    Of an image that was padded to a multiple of the patch, this stretches the padded grid a little, as mmsegmentation does.
    """
    return resized_logits(_wide(predict(images)), (images.shape[-2], images.shape[-1]))


def _wide(logits: Tensor) -> Tensor:
    """At least float32: sums over windows lose digits in bf16."""
    return logits if logits.element_size() > 2 else logits.float()
