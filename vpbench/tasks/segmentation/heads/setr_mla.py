"""SETR's multi-level aggregation head."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn

from vpbench.core.errors import UnsupportedError
from vpbench.interface import BackboneShape
from vpbench.tasks.segmentation.dense_head import (
    ChannelNorm,
    ConvModule,
    DenseHead,
    HeadOptions,
    Level,
    all_logits,
    enlarged,
    pixel_classifier,
)
from vpbench.tasks.segmentation.setr_head import setr_blocks


class _Neck(nn.Module):
    """Maps projected to one width and added up from the deepest on; a 3 x 3 convolution on each sum."""

    def __init__(self, levels: Sequence[Level], width: int) -> None:
        super().__init__()
        self.norm = nn.ModuleList(ChannelNorm(level.width) for level in levels)
        self.mla = nn.ModuleDict(
            {
                "channel_proj": nn.ModuleList(ConvModule(level.width, width, 1) for level in levels),
                "feat_extract": nn.ModuleList(ConvModule(width, width, 3) for _ in levels),
            }
        )

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """As many maps, that of the deepest level alone first."""
        normed = all_logits(self.norm, maps)
        sums = accumulate(reversed(all_logits(self.mla["channel_proj"], normed)))
        return all_logits(self.mla["feat_extract"], list(sums))


class _Joined(nn.Module):
    """Two 3 x 3 convolutions on each map, enlarged by 4; the classifier on all side by side."""

    def __init__(self, count: int, inputs: int, width: int, classes: int) -> None:
        super().__init__()
        pairs = [nn.Sequential(ConvModule(inputs, width, 3), ConvModule(width, width, 3)) for _ in range(count)]
        self.up_convs = nn.ModuleList(pairs)
        self.conv_seg = pixel_classifier(count * width, classes)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        joined = torch.cat(all_logits(self.up_convs, maps), dim=1)
        return enlarged(self.conv_seg(joined), 4)  # linear, so that it may stand before the enlargement


class SETRMla(DenseHead):
    """SETR-MLA: a neck sums four blocks' maps from the deepest on, four auxiliary classifiers read its outputs.

    Parameters on ViT-L/16 with 150 classes: neck 3,420,160, head 1,848,470, auxiliary 4 * 38,550.
    """

    title = "SETR-MLA"
    source = (
        "mmsegmentation 1.2.2, configs/_base_/models/setr_mla.py, mmseg/models/{necks/mla_neck,decode_heads/setr_mla_head}.py"
    )

    @classmethod
    def default_blocks(cls, shape: BackboneShape) -> tuple[int, ...]:
        """The 6th, 12th, 18th and 24th block of 24."""
        return setr_blocks(shape, (6, 12, 18))

    def build(self, levels: list[Level], options: HeadOptions) -> None:
        """Creates ``neck``, ``decode_head`` and ``auxiliary_head``.

        Raises:
            UnsupportedError: when the maps have several sizes.
        """
        if len({level.stride for level in levels}) > 1:
            raise UnsupportedError("setr-mla adds up maps of one size, and this backbone's stages have several.")
        self.neck = _Neck(levels, options.width)
        self.decode_head = _Joined(len(levels), options.width, max(1, options.width // 2), self.classes)
        heads = [nn.ModuleDict({"conv_seg": pixel_classifier(options.width, self.classes)}) for _ in levels]
        self.auxiliary_head = nn.ModuleList(heads if options.auxiliary else ())

    def decode(self, maps: Sequence[Tensor]) -> Tensor:
        """Logits, four times as large as the maps."""
        logits: Tensor = self.decode_head(self.neck(maps))
        return logits

    def auxiliary_logits(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Of one classifier on each output of the neck, on the patch grid."""
        return self._auxiliary(self.neck(maps)) if len(self.auxiliary_head) else []

    def training_logits(self, maps: Sequence[Tensor]) -> list[tuple[float, Tensor]]:
        """As for every head; the neck, whose batch norms keep statistics, is run once."""
        outputs = self.neck(maps)
        others = [(self.auxiliary_weight, logits) for logits in self._auxiliary(outputs)]
        return [(1.0, self.decode_head(outputs)), *others]

    def _auxiliary(self, outputs: Sequence[Tensor]) -> list[Tensor]:
        heads: Any = self.auxiliary_head
        return [head["conv_seg"](each) for head, each in zip(heads, outputs)]
