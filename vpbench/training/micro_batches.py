"""A batch in micro-batches where the head must see it as a whole, as batch norm does."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from vpbench.models.prompted import Inputs, PromptedModel


def whole_head_backward(
    model: PromptedModel, inputs: Inputs, targets: Tensor, parts: int, precision: Callable[[], AbstractContextManager[object]]
) -> Tensor:
    """The loss of a batch, its gradients in place: those of the whole batch, with the activations of one micro-batch.

    The backbone makes its maps without a graph, micro-batch by micro-batch. Loss and gradients of these maps are of the whole
    batch. Then each micro-batch goes through the backbone once more, with the same random numbers, and its maps' gradients back.

    Args:
        model: see :attr:`PromptedModel.splits_before_head`.
        parts: number of micro-batches.
        precision: context of a forward pass.
    """
    pieces: Any = inputs.chunk(parts)
    streams, found = [], []
    with torch.no_grad(), precision():
        for piece in pieces:
            streams.append(_streams())
            found.append(model.features(piece))
    maps = [torch.cat(of_block).requires_grad_() for of_block in zip(*found)]
    with precision():
        loss = model.head_loss(maps, targets)
    loss.backward()
    behind = _streams()
    gradients = [each.grad.split([len(piece) for piece in pieces]) for each in maps if each.grad is not None]
    for place, (piece, stream) in enumerate(zip(pieces, streams)):
        _set_streams(stream)
        with precision():
            again = model.features(piece)
        pairs = [(each, own[place]) for each, own in zip(again, gradients) if each.requires_grad]
        if pairs:
            torch.autograd.backward([each for each, _ in pairs], [own for _, own in pairs])
    _set_streams(behind)
    return loss.detach()


def _streams() -> tuple[Tensor, list[Tensor]]:
    return torch.get_rng_state(), torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []


def _set_streams(streams: tuple[Tensor, list[Tensor]]) -> None:
    torch.set_rng_state(streams[0])
    if streams[1]:
        torch.cuda.set_rng_state_all(streams[1])
