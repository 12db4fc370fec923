"""Batch norm and one linear classifier for every patch: DINOv2's linear segmentation head."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from vpbench.tasks.segmentation.dense_head import DenseHead, HeadOptions, Level, MapBatchNorm, pixel_classifier


class BatchNormLinearHead(DenseHead):
    """Batch norm and a 1 x 1 convolution on the last block's output, behind the final norm. Parameters: 2 D + D K + K."""

    title = "batch norm and linear"
    source = (
        "Oquab et al., DINOv2, 2024: its linear segmentation head (dinov2/eval/segmentation/models/decode_heads/linear_head.py)"
    )
    normed = True

    def build(self, levels: list[Level], options: HeadOptions) -> None:
        """Creates ``decode_head`` with ``bn`` and ``conv_seg``."""
        width = levels[-1].width
        self.decode_head = nn.ModuleDict({"bn": MapBatchNorm(width), "conv_seg": pixel_classifier(width, self.classes)})

    def decode(self, maps: Sequence[Tensor]) -> Tensor:
        """Logits on the patch grid, (B, K, h, w)."""
        logits: Tensor = self.decode_head["conv_seg"](self.decode_head["bn"](maps[-1]))
        return logits
