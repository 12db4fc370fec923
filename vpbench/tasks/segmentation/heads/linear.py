"""One linear classifier for every patch."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from vpbench.tasks.segmentation.dense_head import DenseHead, HeadOptions, Level, pixel_classifier


class LinearHead(DenseHead):
    """A 1 x 1 convolution on the last block's output, behind the backbone's final norm. Parameters: D K + K."""

    title = "linear"
    source = "linear probing of dense features, as in DINOv2, without its batch norm"
    normed = True

    def build(self, levels: list[Level], options: HeadOptions) -> None:
        """Creates ``decode_head`` with ``conv_seg``."""
        self.decode_head = nn.ModuleDict({"conv_seg": pixel_classifier(levels[-1].width, self.classes)})

    def decode(self, maps: Sequence[Tensor]) -> Tensor:
        """Logits on the patch grid, (B, K, h, w)."""
        logits: Tensor = self.decode_head["conv_seg"](maps[-1])
        return logits
