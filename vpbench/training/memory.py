"""What to do where memory is short."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch

if TYPE_CHECKING:
    from vpbench.models.prompted import PromptedModel

R = TypeVar("R")
LIMIT = Path("/sys/fs/cgroup/memory.max")  # of a container
LEAST = 6  # float32 values of a token's width that a block keeps for its backward pass, and there are more


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


def check_batch(model: PromptedModel, images: int, device: torch.device) -> None:
    """That a training batch fits the machine's memory: on a CPU, a process that asks for more is killed without a word.

    Args:
        images: of the batch.

    Raises:
        MemoryError: when it cannot fit, whatever else is small.
    """
    shape, first, available = model.backbone.shape, model.method.first_block, available_bytes()
    if device.type != "cpu" or first >= shape.depth or available is None:
        return
    stage = shape.stage_of(first)
    needed = 4 * LEAST * images * (stage.grid**2 + shape.prefix) * stage.width
    if needed > available:
        raise MemoryError(
            f"a batch of {images} images of {shape.image_size} px needs more than {needed / 2**30:.1f} GiB in training, and this "
            f"machine has {available / 2**30:.1f}: a smaller recipe.batch_size or --image-size."
        )


def available_bytes() -> int | None:
    """Memory of the machine, or what a container may have of it; None where neither is known."""
    found = []
    with suppress(OSError, ValueError, AttributeError):
        found.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    with suppress(OSError, ValueError):  # "max" is no number
        found.append(int(LIMIT.read_text()))
    return min(found, default=None)
