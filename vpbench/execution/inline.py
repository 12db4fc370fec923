"""Running a plan in this process, one run after the other."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any, Protocol

import torch

from vpbench.data.cache import CachedData, prepare
from vpbench.execution.plan import Plan, PlannedRun
from vpbench.execution.worker import execute
from vpbench.store.folder import Store
from vpbench.training.fit import Epoch


class Watcher(Protocol):
    """Hears what happens while a plan runs."""

    def preparing(self, dataset: str, done: int, total: int) -> None: ...

    def started(self, run: PlannedRun) -> None: ...

    def epoch(self, run: PlannedRun, epoch: Epoch) -> None: ...

    def finished(self, run: PlannedRun, row: dict[str, Any]) -> None: ...


def execute_inline(
    plan: Plan, store: Store, device: torch.device, save: Iterable[str], watcher: Watcher
) -> Iterator[dict[str, Any]]:
    """Run what is missing, in order, and yield each row once it is stored."""
    prepared: dict[str, CachedData] = {}
    for run in plan.missing:
        name, spec = run.spec.data.dataset, run.spec
        if name not in prepared:
            prepared[name] = prepare(
                plan.data[name], spec.preprocess, spec.backbone.image_size,
                on_progress=partial(watcher.preparing, name),
            )  # fmt: skip
        watcher.started(run)
        row = execute(run, prepared[name], store, device, save, partial(watcher.epoch, run))
        watcher.finished(run, row)
        yield row


class Silent:
    """A watcher that says nothing."""

    def preparing(self, dataset: str, done: int, total: int) -> None:
        pass

    def started(self, run: PlannedRun) -> None:
        pass

    def epoch(self, run: PlannedRun, epoch: Epoch) -> None:
        pass

    def finished(self, run: PlannedRun, row: dict[str, Any]) -> None:
        pass
