"""Cross-entropy per pixel, with ignored labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from vpbench.data.masks import IGNORED
from vpbench.interface import full_precision

LossMean = Literal["all", "valid"]
"""Over which pixels the loss is a mean: all, ignored ones included, as SETR's released code has it, or those with a label."""


def resized_logits(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Logits (B, K, h, w) in another size, bilinear with half-pixel centres."""
    if tuple(logits.shape[-2:]) == tuple(size):
        return logits
    return F.interpolate(logits, size=tuple(size), mode="bilinear", align_corners=False)


def pixel_cross_entropy(logits: Tensor, labels: Tensor, mean: LossMean = "all") -> Tensor:
    """Cross-entropy of logits, resized to the labels, in float32 or wider; a scalar.

    mmsegmentation and SETR divide the sum over pixels with a label by the number of all pixels (``avg_non_ignore`` off); torch's
    own mean divides by that of pixels with a label.

    Args:
        logits: (B, K, h, w).
        labels: (B, H, W), int64, 255 for ignored pixels.
        mean: see :data:`LossMean`.

    Returns:
        The loss; 0, with a gradient of 0, where all pixels are ignored.
    """
    with full_precision(logits):
        logits = resized_logits(logits if logits.element_size() > 2 else logits.float(), (labels.shape[-2], labels.shape[-1]))
        total = F.cross_entropy(logits, labels, ignore_index=IGNORED, reduction="sum")
        count = labels.numel() if mean == "all" else (labels != IGNORED).sum().clamp(min=1)
        return total / count


def weighted_loss(outputs: Sequence[tuple[float, Tensor]], labels: Tensor, mean: LossMean = "all") -> Tensor:
    """The sum of the losses of several heads.

    Args:
        outputs: pairs of weight and logits, see :meth:`vpbench.tasks.segmentation.dense_head.DenseHead.training_logits`.
        labels: (B, H, W).
    """
    losses = [weight * pixel_cross_entropy(logits, labels, mean) for weight, logits in outputs]
    total: Tensor = sum(losses[1:], losses[0])
    return total
