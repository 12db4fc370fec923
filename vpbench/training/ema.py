"""Exponential moving average of the trained tensors (EMA)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor


class MovingAverage:
    """Averages a <- d a + (1 - d) w after every step. Buffers, such as running statistics, are not averaged.

    Args:
        tensors: trained ones, in a fixed order.
        decay: d.
        values: where the average stands already, in the same order; None starts from the present values.
    """

    def __init__(self, tensors: Sequence[Tensor], decay: float, values: Sequence[Tensor] | None = None) -> None:
        self._tensors, self._decay = list(tensors), decay
        self.values = [tensor.detach().clone() for tensor in (tensors if values is None else values)]

    def update(self) -> None:
        """Call after every step of the optimizer."""
        with torch.no_grad():
            torch._foreach_lerp_(self.values, [tensor.detach() for tensor in self._tensors], 1 - self._decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """In the block, the tensors have their averages."""
        kept = [tensor.detach().clone() for tensor in self._tensors]
        self.apply()
        try:
            yield
        finally:
            self._copy(kept)

    def apply(self) -> None:
        """Give the tensors their averages for good."""
        self._copy(self.values)

    def _copy(self, values: Sequence[Tensor]) -> None:
        with torch.no_grad():
            for tensor, value in zip(self._tensors, values, strict=True):
                tensor.copy_(value)
