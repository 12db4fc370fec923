"""In which numbers a run computes, forward and backward."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, get_args

import torch

from vpbench.core.errors import UsageError
from vpbench.core.names import unknown
from vpbench.spec.device import cpu_computes_bf16
from vpbench.spec.run_spec import Precision

WANTED = ("auto", *get_args(Precision))


def resolve_precision(wanted: str, device: torch.device) -> Precision:
    """The precision for a device; ``auto`` is bf16 where it computes in it natively, as GPUs of other machines are taken to do.

    Raises:
        UsageError: for another name, or one that the device has not.
    """
    if wanted not in WANTED:
        raise unknown("value of --precision", wanted, WANTED)
    if wanted == "tf32" and device.type != "cuda":
        raise UsageError("--precision tf32: only GPUs multiply in TF32; take fp32, bf16 or auto.")
    if wanted != "auto":
        chosen: Precision = wanted  # type: ignore[assignment]
        return chosen
    if device.type == "cpu":
        return "bf16" if cpu_computes_bf16() else "fp32"
    return "bf16" if not torch.cuda.is_available() or gpu_computes_bf16() else "fp32"


def gpu_computes_bf16() -> bool:
    """Whether the GPU has bfloat16 arithmetic; one that emulates it, such as a T4, is slower in it than in fp32."""
    try:
        return torch.cuda.is_bf16_supported(including_emulation=False)
    except TypeError:  # of a torch without this argument
        return torch.cuda.get_device_capability() >= (8, 0)


def autocast(precision: str, device: str) -> AbstractContextManager[Any]:
    """Where a forward pass computes: autocast to bfloat16, or nothing special.

    Args:
        device: ``cpu`` or ``cuda``.
    """
    return torch.autocast(device, torch.bfloat16, enabled=precision == "bf16")


@contextmanager
def float32_products(precision: str) -> Iterator[None]:
    """Sets, for a whole run and its backward passes, how a GPU multiplies float32: in TF32 where asked for, else in full.

    torch's own setting is full precision in matrix products and TF32 in convolutions.
    """
    products: Any = torch.backends.cuda.matmul
    convolutions: Any = torch.backends.cudnn
    before = products.allow_tf32, convolutions.allow_tf32
    products.allow_tf32 = convolutions.allow_tf32 = precision == "tf32"
    try:
        yield
    finally:
        products.allow_tf32, convolutions.allow_tf32 = before
