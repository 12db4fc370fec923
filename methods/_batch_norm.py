"""Batch norm in front of a classifier, shared by methods."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vpbench.interface import F, nn

if TYPE_CHECKING:
    from torch import Tensor


def batch_norm(width: int, **options: Any) -> nn.Module:
    """``nn.BatchNorm1d`` that takes its running statistics for a batch of one image, which has none in training.

    Args:
        width: number of features.
        options: of ``nn.BatchNorm1d``.
    """

    class BatchNorm(nn.BatchNorm1d):
        def forward(self, x: Tensor) -> Tensor:
            if self.training and len(x) == 1:
                return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
            return super().forward(x)

    return BatchNorm(width, **options)
