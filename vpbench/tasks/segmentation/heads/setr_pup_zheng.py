"""SETR's progressive upsampling head, as the paper's own code releases it."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from vpbench.tasks.segmentation.dense_head import (
    ChannelNorm,
    HeadOptions,
    Level,
    MapBatchNorm,
    convolution,
    enlarged,
    pixel_classifier,
)
from vpbench.tasks.segmentation.setr_head import SETRHead, doublings


class _ZhengHead(nn.Module):
    """Layer norm; convolutions with bias, each with batch norm and ReLU, an enlargement between them; classifier, enlargement.

    Args:
        scales: enlargement behind each convolution; the last one stands behind the classifier.
    """

    def __init__(self, inputs: int, width: int, scales: Sequence[int], classes: int) -> None:
        super().__init__()
        self.scales = tuple(scales)
        self.norm = ChannelNorm(inputs)
        for step in range(len(self.scales)):
            self.add_module(f"conv_{step}", convolution(width if step else inputs, width, 3, bias=True))
            self.add_module(f"syncbn_fc_{step}", MapBatchNorm(width))
        self.add_module(f"conv_{len(self.scales)}", pixel_classifier(width, classes))

    def forward(self, maps: Tensor) -> Tensor:
        maps = self.norm(maps)
        for step, scale in enumerate(self.scales):
            maps = self.get_submodule(f"syncbn_fc_{step}")(self.get_submodule(f"conv_{step}")(maps))
            maps = F.relu(maps, inplace=True)
            if step < len(self.scales) - 1:
                maps = enlarged(maps, scale)
        return enlarged(self.get_submodule(f"conv_{len(self.scales)}")(maps), self.scales[-1])


class SETRPupZheng(SETRHead):
    """SETR-PUP of the paper's authors: convolutions with bias, and a fourth auxiliary head, on the last block.

    Parameters on ViT-L/16 with 150 classes: 4,172,438 + 4 * 2,400,662; the classifiers that the released base class makes beside
    these, and nobody uses, are left out.
    """

    title = "SETR-PUP (Zheng et al.)"
    source = "fudan-zvg/SETR 1361561, mmseg/models/decode_heads/vit_up_head.py (MIT); Zheng et al., SETR, CVPR 2021"

    def build(self, levels: list[Level], options: HeadOptions) -> None:
        """Creates ``decode_head`` on the last map and ``auxiliary_head`` on all."""
        last = levels[-1]
        self.decode_head = _ZhengHead(last.width, options.width, (2,) * doublings(last.stride), self.classes)
        heads = [_ZhengHead(level.width, options.width, (4,), self.classes) for level in levels if options.auxiliary]
        self.auxiliary_head = nn.ModuleList(heads)
