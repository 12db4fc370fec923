"""The tracker ``wandb``, Weights & Biases: offline, unless ``WANDB_API_KEY`` or ``WANDB_MODE`` is set."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import wandb

from vpbench.execution.tracker import PROJECT, TrackedRun, Tracker, numbers_of, texts_of


class WeightsAndBiases(Tracker):
    """``wandb sync RESULTS/_tracking/wandb/wandb/offline-run-*`` sends what was written offline. ``WANDB_PROJECT``,
    ``WANDB_ENTITY``, ``WANDB_DIR`` and the like count as always."""

    def __init__(self, run: TrackedRun) -> None:
        environment = os.environ
        mode = environment.get("WANDB_MODE") or ("online" if environment.get("WANDB_API_KEY") else "offline")
        if not environment.get("WANDB_DIR"):
            run.folder.mkdir(parents=True, exist_ok=True)
        self._run = wandb.init(
            project=environment.get("WANDB_PROJECT", PROJECT), dir=environment.get("WANDB_DIR") or str(run.folder),
            id=run.run_id, name=run.name, group=run.group_id, config=dict(run.config), mode=mode,  # type: ignore[arg-type]
            resume="allow" if run.resumed else None,  # None: a run that is repeated replaces the one before
            settings=wandb.Settings(silent=True, console="off"),
        )  # fmt: skip
        self._phases: set[str] = set()

    def log(self, epoch: int, values: Mapping[str, float]) -> None:
        phase = next(iter(values)).partition("/")[0]
        if phase not in self._phases:
            self._phases.add(phase)
            self._run.define_metric(f"{phase}/*", step_metric=f"{phase}/epoch")
        self._run.log({**values, f"{phase}/epoch": epoch})

    def finish(self, row: Mapping[str, Any]) -> None:
        self._run.summary.update({**texts_of(row), **numbers_of(row)})
        self._run.finish(exit_code=0 if row["status"] == "ok" else 1)

    def stop(self) -> None:
        self._run.mark_preempting()
        self._run.finish(exit_code=1)
