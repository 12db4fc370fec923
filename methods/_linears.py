"""The four linear layers of a transformer block, for methods that update all of them."""

from __future__ import annotations

from typing import Any

from vpbench.core.errors import UnsupportedError
from vpbench.interface import BackboneShape, Scope, Site

LINEARS: dict[Site, tuple[int, int]] = {"qkv": (1, 3), "proj": (1, 1), "fc1": (1, 4), "fc2": (4, 1)}
"""Site of a linear layer: width of its input and of its output, in token widths."""


def check_widths(scope: Scope, shape: BackboneShape, what: str) -> None:
    """Check that every MLP is four token widths wide, which ``LINEARS`` takes for granted.

    Args:
        what: the method, for the message.

    Raises:
        UnsupportedError: when an MLP has another width or has no two linear layers.
    """
    for block in range(shape.depth):
        layer: Any = scope.module("fc1", block)
        if layer.out_features != 4 * shape.width_of(block):
            raise UnsupportedError(
                f"{what} is defined for MLPs of 4 x {shape.width_of(block)} channels, and this backbone's have "
                f"{layer.out_features}."
            )
