"""The executor ``local``: its options, and where its workers run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from vpbench.core.errors import UsageError
from vpbench.execution.callbacks import Callback
from vpbench.execution.executor import Executor, check_whole
from vpbench.execution.executors.local.pool import LocalDispatcher
from vpbench.execution.executors.local.slots import Slot, check_gpus, cpu_slots, gpu_slots
from vpbench.execution.job import Job
from vpbench.execution.opened_data import OpenedData
from vpbench.planning.expected_time import longest_first, past_runs
from vpbench.store.store import Store


class Local(Executor):
    """The executor ``local``.

    Args:
        workers: processes, on CPUs; by default one per processor core, up to eight.
        gpus: indices of the GPUs to use, as torch counts them here; by default all.
        per_gpu: workers on each GPU.
        retries: how often a run is retried whose worker died.

    Raises:
        UsageError: for a GPU that does not exist, or numbers that make no sense.
    """

    def __init__(
        self, workers: int | None = None, gpus: Sequence[int] | None = None, per_gpu: int | None = None, retries: int = 1
    ) -> None:
        for option, value, least in (("--workers", workers, 1), ("--per-gpu", per_gpu, 1), ("--retries", retries, 0)):
            check_whole(option, value, least)
        self.workers, self.gpus, self.per_gpu, self.retries = workers, gpus, per_gpu, retries
        if gpus is not None:
            check_gpus(gpus)

    def __call__(self, jobs: Sequence[Job], store: Store, callback: Callback, opened: OpenedData) -> Iterator[dict[str, Any]]:
        """Longest expected run first. Workers start when the first row is asked for, and open data themselves."""
        if not jobs:
            return iter(())
        slots = self.slots(jobs[0].device, len(jobs), jobs[0].threads)
        return LocalDispatcher(self, slots, self.retries, longest_first(jobs, past_runs(store)), store, callback).run()

    def slots(self, device: str, jobs: int, threads: int | None = None) -> list[Slot]:
        """Where workers run; no more than there are jobs.

        Raises:
            UsageError: when workers are asked for that ``device`` cannot have.
        """
        if device == "cpu":
            if self.gpus is not None or self.per_gpu is not None:
                raise UsageError("--gpus and --per-gpu need --device cuda; on CPUs say --workers N.")
            return cpu_slots(self.workers, threads)[:jobs]
        if self.workers is not None:
            raise UsageError("--workers is for CPUs; on GPUs say --per-gpu N (and --gpus 0,1), or --device cpu.")
        return gpu_slots(self.gpus, self.per_gpu, threads)[:jobs]
