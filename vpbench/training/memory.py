"""What to do where memory is short."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch

R = TypeVar("R")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that a device or the machine has no memory left; on a CPU torch has no type of its own for it."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def in_pieces(call: Callable[[Any], R], inputs: Any) -> list[R]:
    """What a call makes of a batch, in order: one result, or where memory is short, one for each half, quarter, ...

    Args:
        inputs: with a length and ``chunk``, as a tensor has them.

    Raises:
        torch.OutOfMemoryError: when single images are too many.
    """
    try:
        return [call(inputs)]
    except (torch.OutOfMemoryError, RuntimeError) as error:
        if not is_out_of_memory(error) or len(inputs) == 1:
            raise
    return [piece for half in inputs.chunk(2) for piece in in_pieces(call, half)]
