"""State of one forward pass."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from vpbench.interface.lazy import F

if TYPE_CHECKING:
    from torch import Tensor


@dataclass
class Context:
    """Lives for one forward pass; the only home of values that depend on the images.

    Attributes:
        images: the normalised input, (B, channels, S, S), before the method's ``pixels``; empty where the method's first block
            is not 0, since activations of the blocks before it may be cached.
        training: whether parameters are being fitted (dropout, sampling and running statistics act).
        stash: what a method hands from one of its hooks to a later one.
        plain_features: features (B, feature_width) of the un-prompted model for normalised images (B, channels, S, S), without
            gradient. For ``images`` themselves they may come from a cache, where preprocessing is deterministic.
        source_logits: logits (B, source classes) of the classifier that the backbone was pretrained with, from features, with
            gradient; None where the method did not ask for it, see ``Method.needs_source_classifier``.
        criterion: the task's loss, a scalar, from what the head returns and the targets of the batch.
    """

    images: Tensor
    training: bool
    stash: dict[str, Any] = field(default_factory=dict)
    plain_features: Callable[[Tensor], Tensor] = field(repr=False, default=lambda images: _unavailable())
    source_logits: Callable[[Tensor], Tensor] | None = field(repr=False, default=None)
    criterion: Callable[[Any, Tensor], Tensor] = field(
        repr=False, default=lambda logits, targets: F.cross_entropy(logits, targets)
    )


def _unavailable() -> Any:
    raise RuntimeError("this context belongs to no model")
