"""The tracker ``tensorboard``: ``tensorboard --logdir RESULTS/_tracking/tensorboard``."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from vpbench.execution.tracker import TrackedRun, Tracker, numbers_of, texts_of

NAME_LENGTH = 80  # of a folder


class TensorBoard(Tracker):
    """Event files, one folder per group and in it one per run. Configuration and row are in the tabs Text and HParams."""

    def __init__(self, run: TrackedRun) -> None:
        group = f"{_file_name(run.name.rpartition(', ')[0])}-{run.group_id[:8]}"
        folder = run.folder / group / f"{_file_name(run.name.rpartition(', ')[2])}-{run.run_id[:8]}"
        if not run.resumed:
            shutil.rmtree(folder, ignore_errors=True)  # of a run that is repeated
        self._config = run.flat_config()
        self._writer = SummaryWriter(str(folder), flush_secs=10)
        self._writer.add_text("config", _table(self._config))

    def log(self, epoch: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, epoch)

    def finish(self, row: Mapping[str, Any]) -> None:
        numbers = numbers_of(row)
        self._writer.add_text("row", _table({**texts_of(row), **numbers}))
        settings = {name: value if isinstance(value, int | float | str) else str(value) for name, value in self._config.items()}
        self._writer.add_hparams(settings, {f"row/{name}": value for name, value in numbers.items()}, run_name=".")
        self._writer.close()

    def stop(self) -> None:
        self._writer.close()


def _file_name(text: str) -> str:
    kept = "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in text)
    return kept[:NAME_LENGTH]


def _table(values: Mapping[str, Any]) -> str:
    """Markdown."""
    lines = [f"| {name} | {str(value).replace('|', chr(92) + '|')} |" for name, value in values.items()]
    return "\n".join(["| name | value |", "|---|---|", *lines])
