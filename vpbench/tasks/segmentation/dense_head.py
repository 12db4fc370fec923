"""What every head of a dense task is: feature maps in, logits of one or several classifiers out."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from vpbench.core.errors import UsageError
from vpbench.core.frozen_model import FrozenModel
from vpbench.core.names import unknown
from vpbench.core.plugins import Registry, subclass_in
from vpbench.interface import BackboneShape, full_precision


class HeadOptions(FrozenModel):
    """Options of the heads; the defaults are those of the released configurations."""

    width: int = Field(256, ge=1, description="channels of the convolutions")
    auxiliary: bool = Field(True, description="train auxiliary heads, too, where the head has some")
    auxiliary_weight: float = Field(0.4, ge=0, description="weight of each auxiliary loss")
    blocks: tuple[int, ...] | None = Field(
        None, description="blocks whose outputs are read, from 0; the head's own choice if left out"
    )


@dataclass(frozen=True)
class Level:
    """A feature map that a head reads.

    Attributes:
        block: whose output it is.
        width: channels D.
        stride: pixels of the image per pixel of the map.
    """

    block: int
    width: int
    stride: int


class DenseHead(nn.Module):
    """Maps feature maps (B, D, h, w) to logits (B, K, h', w'); in training mode to those of several classifiers.

    Args:
        levels: the maps, as :meth:`levels_of` finds them, shallow to deep.
        classes: number of classes K.
        options: see :class:`HeadOptions`.

    Attributes:
        blocks: whose outputs it reads, in order.
        auxiliary_weight: of each loss but that of the decode head.
        normed: whether it reads the last block's output behind the backbone's final norm.
    """

    title: ClassVar[str]
    source: ClassVar[str]
    normed: ClassVar[bool] = False

    def __init__(self, levels: Sequence[Level], classes: int, options: HeadOptions) -> None:
        super().__init__()
        self.classes, self.auxiliary_weight = classes, options.auxiliary_weight
        self.blocks = tuple(level.block for level in levels)
        self.build(list(levels), options)

    @classmethod
    def default_blocks(cls, shape: BackboneShape) -> tuple[int, ...]:
        """Blocks, from 0, whose outputs the head reads where its options do not say."""
        return (shape.depth - 1,)

    @classmethod
    def levels_of(cls, shape: BackboneShape, options: HeadOptions) -> list[Level]:
        """The maps that the head reads on a backbone.

        Raises:
            UsageError: for blocks that the backbone does not have, or too few of them.
            UnsupportedError: when the backbone has fewer blocks than the head reads.
        """
        blocks = options.blocks or cls.default_blocks(shape)
        if beyond := [block for block in blocks if not 0 <= block < shape.depth]:
            raise UsageError(f"the backbone has blocks 0 to {shape.depth - 1}, and the head is to read block {beyond[0]}.")
        if (count := len(cls.default_blocks(shape))) != len(blocks):
            raise UsageError(f"this head reads {count} blocks, and {len(blocks)} are given: {', '.join(map(str, blocks))}.")
        return [Level(block, shape.width_of(block), shape.image_size // shape.stage_of(block).grid) for block in blocks]

    @abstractmethod
    def build(self, levels: list[Level], options: HeadOptions) -> None:
        """Create the layers, from the global random stream."""

    @abstractmethod
    def decode(self, maps: Sequence[Tensor]) -> Tensor:
        """Logits of the decode head, (B, K, h', w'), of whatever size it makes; maps in the order of ``blocks``."""

    def auxiliary_logits(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Logits of the auxiliary heads, which training alone uses; none, unless a head has some."""
        return []

    def training_logits(self, maps: Sequence[Tensor]) -> list[tuple[float, Tensor]]:
        """Pairs of a loss's weight and its logits, the decode head first."""
        return [(1.0, self.decode(maps)), *((self.auxiliary_weight, logits) for logits in self.auxiliary_logits(maps))]

    def forward(self, maps: Sequence[Tensor]) -> Any:
        """In training mode :meth:`training_logits`, in evaluation mode :meth:`decode`."""
        return self.training_logits(maps) if self.training else self.decode(maps)

    @property
    def uses_batch_statistics(self) -> bool:
        """Whether training on an image depends on the others of its batch, which rules out micro-batches."""
        return any(isinstance(module, nn.BatchNorm2d) for module in self.modules())

    @property
    def inference_parameters(self) -> int:
        """Trainable numbers without those of auxiliary heads, which inference does not run."""
        return sum(each.numel() for name, each in self.named_parameters() if not name.startswith("auxiliary_head."))


_HEADS: Registry[type[DenseHead]] = Registry("head", "vpbench.tasks.segmentation.heads", subclass_in(DenseHead))  # type: ignore[type-abstract]


def head_names() -> list[str]:
    """Names of all heads, as users write them: ``setr-pup``."""
    return [name.replace("_", "-") for name in _HEADS.names()]


@cache
def head_class(name: str) -> type[DenseHead]:
    """The head of a name, with hyphens or underscores.

    Raises:
        UsageError: for an unknown name, with a suggestion.
    """
    file = name.replace("-", "_")
    if not _HEADS.has(file):
        raise unknown("head", name, head_names())
    return _HEADS.get(file)


def make_dense_head(name: str, shape: BackboneShape, classes: int, options: HeadOptions | None = None) -> DenseHead:
    """A freshly initialised head on a backbone.

    Raises:
        UsageError: for an unknown name, or options that do not fit the backbone.
        UnsupportedError: when the head cannot read the backbone's maps.
    """
    kind, options = head_class(name), options or HeadOptions.model_validate({})
    return kind(kind.levels_of(shape, options), classes, options)


# Parts of the heads


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of a map (B, D, h, w), eps 1e-6, in float32 under autocast."""

    def __init__(self, width: int) -> None:
        super().__init__(width, eps=1e-6)

    def forward(self, maps: Tensor) -> Tensor:
        with full_precision(maps):
            x = maps.to(self.weight.dtype).movedim(1, -1)
            return F.layer_norm(x, list(self.normalized_shape), self.weight, self.bias, self.eps).movedim(-1, 1).contiguous()


class MapBatchNorm(nn.BatchNorm2d):
    """Batch norm of maps, eps 1e-5, momentum 0.1, in float32 under autocast."""

    def forward(self, maps: Tensor) -> Tensor:
        with full_precision(maps):
            normed: Tensor = super().forward(maps.to(self.weight.dtype))
            return normed


def convolution(inputs: int, outputs: int, kernel: int, *, bias: bool) -> nn.Conv2d:
    """A convolution in front of a batch norm: zero padding, Kaiming-normal (fan-out), as mmsegmentation's ConvModule has it."""
    layer = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=bias)
    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


class ConvModule(nn.Module):
    """Convolution without bias, batch norm, ReLU, with the names of mmsegmentation's module."""

    def __init__(self, inputs: int, outputs: int, kernel: int) -> None:
        super().__init__()
        self.conv, self.bn = convolution(inputs, outputs, kernel, bias=False), MapBatchNorm(outputs)

    def forward(self, maps: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(maps)), inplace=True)


def pixel_classifier(inputs: int, classes: int) -> nn.Conv2d:
    """A 1 x 1 convolution from N(0, 0.01), bias 0."""
    layer = nn.Conv2d(inputs, classes, 1)
    nn.init.normal_(layer.weight, std=0.01)
    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return layer


def enlarged(maps: Tensor, scale: int) -> Tensor:
    """Bilinear, half-pixel centres."""
    return maps if scale == 1 else F.interpolate(maps, scale_factor=scale, mode="bilinear", align_corners=False)


def all_logits(heads: Any, maps: Sequence[Tensor]) -> list[Tensor]:
    """Each head on its map."""
    return [head(each) for head, each in zip(heads, maps, strict=True)]
