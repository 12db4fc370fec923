"""Where the workers of a machine run: on which GPU, with how many threads."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from vpbench.core.errors import UsageError
from vpbench.execution.executor import processors

WORKERS_AT_MOST = 8  # unless asked for; each takes memory for torch, a backbone and a batch
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass(frozen=True)
class Slot:
    """A place for a worker: its name for people, and what its environment has on top of ours."""

    name: str
    environment: dict[str, str]
    threads: int


def cpu_slots(workers: int | None, threads: int | None) -> list[Slot]:
    """Workers on the CPUs; by default one per processor core, at most :data:`WORKERS_AT_MOST`."""
    count = workers or min(processors(), WORKERS_AT_MOST)
    return _slots([f"cpu {index}" for index in range(count)], [""] * count, threads)


def gpu_slots(gpus: Sequence[int] | None, per_gpu: int | None, threads: int | None) -> list[Slot]:
    """Workers on GPUs, which are numbered as torch counts them here; by default one on each."""
    import torch

    # The first worker of each GPU before the second of any, in case there are fewer runs than slots.
    chosen = [gpu for _ in range(per_gpu or 1) for gpu in (range(torch.cuda.device_count()) if gpus is None else gpus)]
    return _slots([f"gpu {gpu}" for gpu in chosen], [_visible(gpu) for gpu in chosen], threads)


def _slots(names: list[str], visible: list[str], threads: int | None) -> list[Slot]:
    """Threads are divided: processes that have more threads than there are cores hinder each other."""
    share = threads or max(1, processors() // len(names))
    variables = dict.fromkeys(THREAD_VARIABLES, str(share))
    return [Slot(name, {"CUDA_VISIBLE_DEVICES": gpu, **variables}, share) for name, gpu in zip(names, visible, strict=True)]


def _visible(gpu: int) -> str:
    """A GPU by the name it has outside, where this process itself may see some GPUs only."""
    names = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    return names[gpu] if names else str(gpu)


def check_gpus(gpus: Sequence[int]) -> None:
    """
    Raises:
        UsageError: for no GPU, one that does not exist, or one that is named twice.
    """
    import torch

    count, given = torch.cuda.device_count(), ",".join(map(str, gpus))
    if not gpus:
        raise UsageError("--gpus names no GPU; write --gpus 0,2.")
    for gpu in gpus:
        if not 0 <= gpu < count:
            there = f"torch sees {count}, numbered from 0" if count else "torch sees no GPU here; leave --gpus out"
            raise UsageError(f"--gpus {given}: there is no GPU {gpu}; {there}.")
    if len(set(gpus)) < len(gpus):
        raise UsageError(f"--gpus {given}: a GPU is named twice; for several workers on one: --per-gpu N.")
