"""Parameters with one row per block, whether or not all blocks have the same width."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from vpbench.interface.lazy import nn, torch
from vpbench.interface.shape import BackboneShape, Stage

if TYPE_CHECKING:
    from torch import Tensor


def uniform_prompts(shape: BackboneShape, *size: int) -> nn.Parameter:
    """A parameter of ``size`` from U(-v, v), v as in :attr:`BackboneShape.prompt_bound`."""
    return nn.Parameter(torch.empty(*size).uniform_(-shape.prompt_bound, shape.prompt_bound))


def per_block(
    shape: BackboneShape, make: Callable[[Stage, int], nn.Parameter], blocks: range | None = None
) -> nn.Parameter | nn.ParameterList:
    """A tensor with one row per block; where blocks differ in width, a list with one such tensor per stage.

    Args:
        shape: of the backbone.
        make: gives the tensor of a stage, with as many rows as its second argument says.
        blocks: that have a row, one behind the other; None for all.
    """
    blocks = range(shape.depth) if blocks is None else blocks
    ends = [(max(stage.first, blocks.start), min(stage.first + stage.depth, blocks.stop)) for stage in shape.stages]
    rows = [(stage, end - first) for stage, (first, end) in zip(shape.stages, ends)]
    tensors = [make(stage, count) for stage, count in rows if count > 0 or len(rows) == 1]
    return tensors[0] if len(tensors) == 1 else nn.ParameterList(tensors)


def block_prompts(shape: BackboneShape, length: int, blocks: range | None = None) -> nn.Parameter | nn.ParameterList:
    """Prompts (N, D) for each of ``blocks``, D its own width, from U(-v, v): (L, N, D), or a list of such per stage."""
    return per_block(shape, lambda stage, rows: uniform_prompts(shape, rows, length, stage.width), blocks)


def stage_tensors(values: Tensor | nn.ParameterList) -> list[Tensor]:
    """What :func:`per_block` made, as a list with one tensor per stage."""
    return list(values) if isinstance(values, nn.ParameterList) else [values]


def of_block(values: Tensor | nn.ParameterList, block: int) -> Tensor:
    """Row ``block`` of what :func:`per_block` made, counted from its first.

    Raises:
        IndexError: when there is none for it.
    """
    for tensor in stage_tensors(values):
        if block < len(tensor):
            return tensor[block]
        block -= len(tensor)
    raise IndexError("there is no row for this block")
