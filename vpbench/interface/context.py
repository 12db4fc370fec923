"""State of one forward pass."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


@dataclass
class Context:
    """Lives for one forward pass; the only home of values that depend on the images.

    Attributes:
        images: the normalised input, (B, channels, S, S), before the method's ``pixels``; empty where the method's first block
            is not 0, since what lies in front may have been computed long before.
        training: whether parameters are being fitted (dropout, sampling and running statistics act).
        stash: what a method hands from one of its hooks to a later one.
    """

    images: Tensor
    training: bool
    stash: dict[str, Any] = field(default_factory=dict)
