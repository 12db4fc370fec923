"""Latency, throughput, training step time, peak memory and energy of a fitted model, in the run's precision."""

from __future__ import annotations

import gc
import re
import resource
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from vpbench.interface import BackboneShape
from vpbench.measure.energy import joules_per_call
from vpbench.measure.operations import merges
from vpbench.models.prompted import PromptedModel
from vpbench.spec.precision import autocast
from vpbench.spec.recipe import Recipe
from vpbench.training.optim import backbone_depths, make_optimizer

Columns = dict[str, float | int | str | None]

THROUGHPUT_BATCH = 64
SECONDS = 0.2  # spent on each figure, warm-up apart
FEWEST = 3  # calls of each figure
SLOW = 3.0  # seconds of a call that is made once


def measure_training(model: PromptedModel, recipe: Recipe, device: torch.device, precision: str, images: int) -> Columns:
    """``train_*``, ``mem_train_peak`` and ``energy_train_j``: forward, backward and update of one batch on random images.

    The model's tensors are put back afterwards.

    Args:
        images: that there are for training; a batch has no more.
    """
    recipe = recipe.model_copy(update={"batch_size": min(recipe.batch_size, images)})
    before = model.snapshot()
    try:
        step = training_step(model.train(), recipe, device, precision)
        with Peak(device) as peak:
            times = _times(step)
        energy = joules_per_call(step, device)
    finally:
        model.restore(before)
    seconds = float(np.median(times))
    return {
        "train_step_ms": 1e3 * seconds,
        "train_images_per_s": recipe.batch_size / seconds,
        "mem_kind": peak.kind,
        "mem_train_peak": peak.bytes,
        "energy_train_j": None if energy is None else energy / recipe.batch_size,
    }


def measure_inference(model: PromptedModel, device: torch.device, precision: str) -> Columns:
    """The ``latency_*``, ``throughput*``, ``mem_infer_peak`` and ``energy_infer_j`` columns, with the method merged where it
    can be; of the latency before that, the median. A single call that takes seconds has a median alone.

    The model cannot be trained afterwards.
    """
    model.eval()
    single = inference(model, example_images(model.backbone.shape, 1, device), precision)
    unmerged = None
    if merges(model):
        unmerged = 1e3 * float(np.median(_times(single)))
        model.merge()
    singles = _times(single)
    p10, p50, p90 = (1e3 * float(value) for value in np.percentile(singles, [10, 50, 90]))
    batch = inference(model, example_images(model.backbone.shape, THROUGHPUT_BATCH, device), precision)
    with Peak(device) as peak:
        times = _times(batch)
    energy = joules_per_call(batch, device)
    return {
        "latency_ms_p10": p10 if len(singles) > 1 else None,
        "latency_ms_p50": p50,
        "latency_ms_p90": p90 if len(singles) > 1 else None,
        "latency_unmerged_ms_p50": p50 if unmerged is None else unmerged,
        "throughput": THROUGHPUT_BATCH / float(np.median(times)),
        "throughput_batch": THROUGHPUT_BATCH,
        "mem_infer_peak": peak.bytes,
        "energy_infer_j": None if energy is None else energy / THROUGHPUT_BATCH,
    }


def training_step(model: PromptedModel, recipe: Recipe, device: torch.device, precision: str) -> Callable[[], None]:
    """A call that does forward, backward and update of one batch of random images, and so changes the model; in training mode."""
    images = example_images(model.backbone.shape, recipe.batch_size, device)
    targets = model.task.example_targets(recipe.batch_size, model.backbone.shape.image_size, device)
    optimizer = make_optimizer(model.trainable(), recipe, backbone_depths(model, recipe))

    def step() -> None:
        with autocast(precision, device.type):
            loss, _ = model.training_loss(images, targets)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    return step


def inference(model: nn.Module, images: Tensor, precision: str) -> Callable[[], None]:
    """A call that does one forward pass without gradients, in the mode that the model is in."""

    def call() -> None:
        with torch.inference_mode(), autocast(precision, images.device.type):
            model(images)

    return call


def example_images(shape: BackboneShape, count: int, device: torch.device) -> Tensor:
    """Random images (count, C, S, S), the same on every machine."""
    return torch.randn(count, shape.channels, shape.image_size, shape.image_size, generator=torch.Generator().manual_seed(0)).to(
        device
    )


def _times(call: Callable[[], None]) -> list[float]:
    """Seconds of each of some calls, behind one that warms up.

    A first call that takes seconds is the measurement: what warms up in it takes milliseconds.
    """
    (first,) = seconds_of_calls(call, 0.0, 1)
    return [first] if first > SLOW else seconds_of_calls(call, SECONDS, FEWEST)


def seconds_of_calls(call: Callable[[], None], at_least_s: float, fewest: int) -> list[float]:
    """Seconds of each call, synchronised, of at least so many calls and so many seconds in all.

    Each call is timed alone: percentiles over blocks of calls, as torch's timer has them, are those of means, and equal when a
    busy machine makes it take a single block.
    """
    times: list[float] = []
    end = time.perf_counter() + at_least_s
    while len(times) < fewest or time.perf_counter() < end:
        _synchronise()
        start = time.perf_counter()
        call()
        _synchronise()
        times.append(time.perf_counter() - start)
    return times


def _synchronise() -> None:
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


class Peak:
    """Peak memory inside a ``with`` block, in ``bytes``: of the device's allocator, or of this process on a CPU."""

    def __init__(self, device: torch.device) -> None:
        self._device, self.kind = device, "allocator" if device.type == "cuda" else "process"
        self.bytes: int | None = None

    def __enter__(self) -> Peak:
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
