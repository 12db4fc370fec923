"""The tracker ``trackio``: ``trackio show --project vpbench``. It writes to its own folder, or to ``TRACKIO_DIR``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import trackio

from vpbench.execution.tracker import PROJECT, TrackedRun, Tracker, numbers_of, texts_of


class Trackio(Tracker):
    """Configuration, epochs, and the row as the last entry. ``TRACKIO_SPACE_ID`` and the like count as always."""

    def __init__(self, run: TrackedRun) -> None:
        self._run = trackio.init(
            project=PROJECT, name=f"{run.name} ({run.run_id[:8]})", group=run.group_id, config=run.flat_config(),
            resume="allow" if run.resumed else "never", embed=False, auto_log_gpu=False, auto_log_cpu=False,
        )  # fmt: skip

    def log(self, epoch: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=epoch)

    def finish(self, row: Mapping[str, Any]) -> None:
        self._run.log({f"row/{name}": value for name, value in {**texts_of(row), **numbers_of(row)}.items()})
        self._run.finish()

    def stop(self) -> None:
        self._run.finish()
