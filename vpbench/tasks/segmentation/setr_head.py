"""What SETR's heads share: the blocks that they read, convolutions and enlargements in turn, auxiliary heads."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from vpbench.core.errors import UnsupportedError
from vpbench.interface import BackboneShape
from vpbench.tasks.segmentation.dense_head import (
    ChannelNorm,
    ConvModule,
    DenseHead,
    Level,
    all_logits,
    enlarged,
    pixel_classifier,
)


class SETRHead(DenseHead):
    """A decode head on the last of four maps, and auxiliary heads on the first ones; ``build`` creates both."""

    decode_head: nn.Module
    auxiliary_head: nn.ModuleList

    @classmethod
    def default_blocks(cls, shape: BackboneShape) -> tuple[int, ...]:
        """The 10th, 15th, 20th and 24th block of 24."""
        return setr_blocks(shape, (10, 15, 20))

    def decode(self, maps: Sequence[Tensor]) -> Tensor:
        """Logits of the decode head."""
        logits: Tensor = self.decode_head(maps[-1])
        return logits

    def auxiliary_logits(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Of one head on each map from the first on, as many as there are."""
        return all_logits(self.auxiliary_head, maps[: len(self.auxiliary_head)])


def setr_blocks(shape: BackboneShape, of_24: tuple[int, int, int]) -> tuple[int, ...]:
    """Four blocks: three of those of a ViT-L with 24 blocks, counted from 1, scaled to the depth, and the last one.

    The last four where these are not distinct; of a backbone with stages the last block of each.

    Raises:
        UnsupportedError: for fewer than four blocks or, with stages, other than four of them.
    """
    stages = shape.stages
    if len(stages) > 1:
        if len(stages) != 4:
            raise UnsupportedError(f"this head reads four feature maps, and the backbone has {len(stages)} stages.")
        return tuple(stage.first + stage.depth - 1 for stage in stages)
    if shape.depth < 4:
        raise UnsupportedError(f"this head reads the outputs of four blocks, and the backbone has {shape.depth}.")
    blocks = (*(math.ceil(each * shape.depth / 24) - 1 for each in of_24), shape.depth - 1)
    return blocks if len(set(blocks)) == 4 else tuple(range(shape.depth - 4, shape.depth))


class UpHead(nn.Module):
    """Layer norm, then steps of convolution, batch norm, ReLU and enlargement, then the classifier.

    The classifier stands before the last enlargement: a 1 x 1 convolution is linear and bilinear weights add up to 1, so that
    both orders are the same, and this one needs no map of ``width`` channels at full size.

    Args:
        inputs: channels of the map.
        width: of the convolutions.
        kernel: of the convolutions, 1 or 3.
        scales: of the enlargements, one step each.
        classes: number of classes.
    """

    def __init__(self, inputs: int, width: int, kernel: int, scales: Sequence[int], classes: int) -> None:
        super().__init__()
        self.scales = tuple(scales)
        self.norm = ChannelNorm(inputs)
        widths = [inputs, *[width] * len(self.scales)]
        steps = [nn.Sequential(ConvModule(before, after, kernel)) for before, after in pairwise(widths)]
        self.up_convs = nn.ModuleList(steps)
        self.conv_seg = pixel_classifier(width, classes)

    def forward(self, maps: Tensor) -> Tensor:
        maps = self.norm(maps)
        for step, scale in zip(self.up_convs[:-1], self.scales):
            maps = enlarged(step(maps), scale)
        return enlarged(self.conv_seg(self.up_convs[-1](maps)), self.scales[-1])


def doublings(stride: int) -> int:
    """Steps of 2 from a map of this stride to about the size of the image: log2(stride), rounded, at least 1."""
    return max(1, round(math.log2(stride)))


def in_two_steps(stride: int) -> tuple[int, int]:
    """The same enlargement in two steps: 4 and 4 for a stride of 16."""
    count = max(2, doublings(stride))
    return 2 ** -(-count // 2), 2 ** (count // 2)


def auxiliary_up_heads(levels: Sequence[Level], width: int, kernel: int, classes: int) -> nn.ModuleList:
    """mmsegmentation's auxiliary heads: two steps of convolution, batch norm, ReLU and enlargement by 4."""
    return nn.ModuleList(UpHead(level.width, width, kernel, in_two_steps(level.stride), classes) for level in levels)
