"""Latency, throughput, training step time and peak memory of a fitted model, in the run's precision."""

from __future__ import annotations

import gc
import logging
import re
import resource
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vpbench.model import PromptedModel
from vpbench.training.optim import make_optimizer
from vpbench.training.recipe import Recipe

THROUGHPUT_BATCH = 64
SECONDS = 0.2  # spent on each figure, warm-up apart


def measure_training(model: PromptedModel, recipe: Recipe, device: torch.device, precision: str) -> dict[str, float | int | None]:
    """``train_step_ms`` and ``mem_train_peak``: forward, backward and update of one batch on random images.

    The model's tensors are put back afterwards.
    """
    images = _images(model, recipe.batch_size, device)
    labels = torch.arange(recipe.batch_size, device=device) % model.method.classes
    before = model.snapshot()
    optimizer = make_optimizer(model.trainable(), recipe)
    model.train()

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            loss, _ = model.training_loss(images, labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    with _Peak(device) as peak:
        times = _times(step)
    model.restore(before)
    return {"train_step_ms": 1e3 * float(np.median(times)), "mem_train_peak": peak.bytes}


def measure_inference(model: PromptedModel, device: torch.device, precision: str) -> dict[str, float | int | None]:
    """The ``latency_*``, ``throughput*`` and ``mem_infer_peak`` columns, with the method merged where it can be.

    The model cannot be trained afterwards.
    """
    model.eval()
    model.method.merge()

    def infer(images: Tensor) -> Callable[[], None]:
        def call() -> None:
            with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
                model(images)

        return call

    single = np.array(_times(infer(_images(model, 1, device))))
    with _Peak(device) as peak:
        batch = _times(infer(_images(model, THROUGHPUT_BATCH, device)))
    p10, p50, p90 = 1e3 * np.percentile(single, [10, 50, 90])
    return {
        "latency_ms_p10": float(p10),
        "latency_ms_p50": float(p50),
        "latency_ms_p90": float(p90),
        "throughput": THROUGHPUT_BATCH / float(np.median(batch)),
        "throughput_batch": THROUGHPUT_BATCH,
        "mem_infer_peak": peak.bytes,
    }


def _images(model: PromptedModel, count: int, device: torch.device) -> Tensor:
    shape = model.backbone.shape
    return torch.randn(count, shape.channels, shape.image_size, shape.image_size, generator=torch.Generator().manual_seed(0)).to(
        device
    )


def _times(call: Callable[[], None]) -> list[float]:
    """Seconds per call, warmed up and synchronised by torch's own timer, on the threads in use."""
    # When imported it looks for a compiler, and warns on a machine that has CUDA's but no GPU.
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    from torch.utils.benchmark import Timer

    timer = Timer("call()", globals={"call": call}, num_threads=torch.get_num_threads())
    return timer.blocked_autorange(min_run_time=SECONDS).times


class _Peak:
    """Peak memory inside a ``with`` block: of the device's allocator, or of this process on a CPU."""

    def __init__(self, device: torch.device) -> None:
        self._device, self.bytes = device, None

    bytes: int | None

    def __enter__(self) -> _Peak:
        gc.collect()
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
        else:
            with suppress(OSError):
                Path("/proc/self/clear_refs").write_text("5")  # Linux: forget the highest resident size so far
        return self

    def __exit__(self, *_error: object) -> None:
        if self._device.type == "cuda":
            self.bytes = torch.cuda.max_memory_allocated(self._device)
        else:
            self.bytes = _highest_resident()


def _highest_resident() -> int:
    """Highest resident size of this process, bytes, since it was last forgotten."""
    with suppress(OSError):
        if found := re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text()):
            return 1024 * int(found[1])
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
