"""What a backbone shows methods of its attention."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import Tensor


class ClassAttention(Protocol):
    """Attention that each block's class token pays, see :meth:`vpbench.interface.Scope.watch_class_attention`."""

    def __call__(self, block: int) -> Tensor:
        """Softmax weights of the class token in ``block`` of the last forward pass, over all keys, (B, heads, T)."""
        ...


class ReceivedAttention(Protocol):
    """Attention that each patch token receives, see :meth:`vpbench.interface.Scope.watch_received_attention`."""

    def __call__(self, block: int) -> Tensor:
        """Mean weight over heads and queries, of each patch token in ``block`` of the last forward pass, (B, M)."""
        ...
