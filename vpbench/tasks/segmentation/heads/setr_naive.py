"""SETR's naive head: one 1 x 1 convolution before the classifier."""

from __future__ import annotations

from vpbench.tasks.segmentation.dense_head import HeadOptions, Level
from vpbench.tasks.segmentation.setr_head import SETRHead, UpHead, auxiliary_up_heads


class SETRNaive(SETRHead):
    """SETR-Naive as mmsegmentation configures it: logits at a quarter of the image's size on a ViT with patches of 16."""

    title = "SETR-Naive"
    source = "mmsegmentation 1.2.2, configs/_base_/models/setr_naive.py, mmseg/models/decode_heads/setr_up_head.py (Apache-2.0)"

    def build(self, levels: list[Level], options: HeadOptions) -> None:
        """Creates ``decode_head`` on the last map and ``auxiliary_head`` on the others."""
        self.decode_head = UpHead(levels[-1].width, options.width, 1, (4,), self.classes)
        self.auxiliary_head = auxiliary_up_heads(levels[:-1] if options.auxiliary else (), options.width, 1, self.classes)
