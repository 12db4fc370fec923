"""Energy of a GPU, from the counter that its driver keeps (NVML); without the package nvidia-ml-py there is no figure."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import torch

SECONDS = 1.0  # the counter moves in steps of up to a tenth of a second


def joules_per_call(call: Callable[[], None], device: torch.device) -> float | None:
    """Energy of the whole GPU, idle power included, over about a second of calls, divided by their number.

    None on a CPU, without NVML, and for a GPU without such a counter (before Volta).
    """
    counter = _counter(device) if device.type == "cuda" else None
    if counter is None:
        return None
    torch.cuda.synchronize(device)
    calls, start, end = 0, counter(), time.perf_counter() + SECONDS
    while time.perf_counter() < end:
        call()
        torch.cuda.synchronize(device)
        calls += 1
    return (counter() - start) / calls


def _counter(device: torch.device) -> Callable[[], float] | None:
    """Gives the joules since the driver was loaded."""
    try:
        import pynvml as nvml
    except ImportError:
        return None
    with suppress(nvml.NVMLError, AttributeError):
        nvml.nvmlInit()
        # By its id: CUDA_VISIBLE_DEVICES renumbers torch's devices, not NVML's.
        properties: Any = torch.cuda.get_device_properties(device)
        handle = nvml.nvmlDeviceGetHandleByUUID(f"GPU-{properties.uuid}")

        def joules() -> float:
            return float(nvml.nvmlDeviceGetTotalEnergyConsumption(handle)) / 1e3

        joules()
        return joules
    return None
