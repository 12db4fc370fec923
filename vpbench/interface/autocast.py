"""Parts of a forward pass that must not run in reduced precision."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from vpbench.interface.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor


def full_precision(tensor: Tensor) -> AbstractContextManager[Any]:
    """Autocast switched off on the tensor's device; tensors that are in bf16 already must be cast by the caller."""
    if tensor.is_meta:  # where operations are counted, nothing is computed in any precision
        return nullcontext()
    return torch.autocast(tensor.device.type, enabled=False)
