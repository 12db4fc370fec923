"""SETR's naive head: one 1 x 1 convolution before the classifier."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from vpbench.interface import BackboneShape
from vpbench.tasks.segmentation.dense_head import (
    DenseHead,
    HeadOptions,
    Level,
    UpHead,
    all_logits,
    auxiliary_up_heads,
    setr_blocks,
)


class SETRNaive(DenseHead):
    """SETR-Naive as mmsegmentation configures it: logits at a quarter of the image's size on a ViT with patches of 16."""

    title = "SETR-Naive"
    source = "mmsegmentation 1.2.2, configs/_base_/models/setr_naive.py, mmseg/models/decode_heads/setr_up_head.py (Apache-2.0)"

    @classmethod
    def default_blocks(cls, shape: BackboneShape) -> tuple[int, ...]:
        """The 10th, 15th, 20th and 24th block of 24."""
        return setr_blocks(shape, (10, 15, 20))

    def build(self, levels: list[Level], options: HeadOptions) -> None:
        """Creates ``decode_head`` on the last map and ``auxiliary_head`` on the others."""
        self.decode_head = UpHead(levels[-1].width, options.width, 1, (4,), self.classes)
        self.auxiliary_head = auxiliary_up_heads(levels[:-1] if options.auxiliary else (), options.width, 1, self.classes)

    def decode(self, maps: Sequence[Tensor]) -> Tensor:
        """Logits, four times as large as the last map."""
        logits: Tensor = self.decode_head(maps[-1])
        return logits

    def auxiliary_logits(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Of one head on each map but the last."""
        return all_logits(self.auxiliary_head, maps[: len(self.auxiliary_head)])
