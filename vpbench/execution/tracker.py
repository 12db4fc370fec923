"""The interface of a tracker, a tool that experiments are watched with, and the trackers by name. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from vpbench.core.plugins import Registry, subclass_in

PROJECT = "vpbench"  # what the tools call all runs together
FOLDER = "_tracking"  # in the results folder, for tools that write files


@dataclass(frozen=True)
class TrackedRun:
    """What a tracker receives when a run starts.

    Attributes:
        run_id: as in its row; the same when the run is repeated or resumed.
        group_id: the same for runs that differ in their seed only.
        name: for people, e.g. ``vpt on digits, seed 42``.
        config: the whole specification, nested.
        folder: where the tool may write files; it need not exist.
        resumed: whether an earlier process has begun the run.
    """

    run_id: str
    group_id: str
    name: str
    config: Mapping[str, Any]
    folder: Path
    resumed: bool = False

    def flat_config(self) -> dict[str, Any]:
        """The configuration as one level, ``method.config.prompt_length``."""
        return dict(_flat(self.config))


class Tracker:
    """Base class of trackers: reports one run to a tool, in the process that does the run.

    A tracker is a module of ``vpbench.execution.trackers``, a file in ``trackers`` of the user's folders, or an entry point of
    the group ``vpbench.trackers``; its name is the name for ``--track``. One object is made per run. What it raises ends its
    reports with one warning, and never the run.
    """

    def __init__(self, run: TrackedRun) -> None:
        raise NotImplementedError

    def log(self, epoch: int, values: Mapping[str, float]) -> None:
        """After an epoch (from 1): ``train/loss``, ``train/lr`` and, where it is validated, ``train/val_acc1``. Methods with
        several trainings have other names before the slash; each counts its epochs from 1."""
        raise NotImplementedError

    def finish(self, row: Mapping[str, Any]) -> None:
        """At the end, with the run's row: see ``vpbench.store.schema``."""
        raise NotImplementedError

    def stop(self) -> None:
        """At the end of a run without a row, because it is paused."""
        raise NotImplementedError


def tracker_registry() -> Registry[type[Tracker]]:
    """Every tracker there is."""
    own = "vpbench.execution.trackers"
    return Registry("tracker", own, subclass_in(Tracker), group="vpbench.trackers", folder="trackers")


def check_trackers(names: Iterable[str]) -> None:
    """
    Raises:
        UsageError: for an unknown tracker, or one whose library is not installed.
    """
    for name in names:
        tracker_registry().get(name)


def numbers_of(row: Mapping[str, Any]) -> dict[str, float]:
    """The columns of a row that are finite numbers."""
    return {
        name: float(value)
        for name, value in row.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < float("inf")
    }


def texts_of(row: Mapping[str, Any]) -> dict[str, str]:
    """The other columns that have a value, as text; without those that repeat the configuration as JSON."""
    numbers, repeated = numbers_of(row), ("spec", "recipe", "method_config", "preprocess", "search")
    return {name: _text(value) for name, value in row.items() if value not in (None, "") and name not in (*numbers, *repeated)}


def _text(value: Any) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
