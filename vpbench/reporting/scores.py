"""What the score of a run is: the metric of its task, under one column for all tasks."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from typing import Any

import pandas as pd

from vpbench.analysis.scales import SCALES_FILE
from vpbench.core.errors import VpbenchError
from vpbench.spec.run_spec import DEFAULT_TASK
from vpbench.store.store import Store
from vpbench.tasks import Task, task_class

SCORE = "score"
MULTI_SCALE = ("miou_ms", "macc_ms", "aacc_ms")
ACCURACY = "top-1 accuracy"  # what titles of tables say for classification


def with_scores(runs: pd.DataFrame) -> pd.DataFrame:
    """Rows with ``task``, ``score`` and ``val_score``: those of classification may have ``acc1`` and ``val_acc1`` alone."""
    task = runs["task"].fillna(DEFAULT_TASK) if "task" in runs else pd.Series(DEFAULT_TASK, index=runs.index, dtype=object)
    return runs.assign(task=task, score=_filled(runs, SCORE, "acc1"), val_score=_filled(runs, "val_score", "val_acc1"))


def _filled(runs: pd.DataFrame, column: str, older: str) -> pd.Series[float]:
    """A column, and where it is empty the one that classification had before."""
    empty = pd.Series(float("nan"), index=runs.index)
    found, former = (runs[name].astype(float) if name in runs else empty for name in (column, older))
    return found.fillna(former)


def with_later_scales(runs: pd.DataFrame, store: Store, scales: Sequence[float]) -> pd.DataFrame:
    """Rows with the scores of several scales that ``--scales`` found after the run, where the row has none.

    Args:
        scales: ratios; what was found with others is left out.
    """
    columns = [name for name in MULTI_SCALE if name in runs]
    if not scales or not columns:
        return runs
    later: dict[str, dict[str, float]] = {}
    for run_id in map(str, runs.loc[runs[columns].isna().all(axis=1), "run_id"]):
        if not store.artefact_path(run_id, SCALES_FILE).exists():
            continue
        with suppress(OSError, ValueError, TypeError, KeyError):  # a damaged file, whose run stays without
            found = json.loads(store.read_artefact(run_id, SCALES_FILE))
            if found["scales"] == list(scales):
                later[run_id] = {name: float(found[name]) for name in columns}
    empty: dict[str, float] = {}
    added = {name: [later.get(str(run_id), empty).get(name) for run_id in runs["run_id"]] for name in columns}
    filled = {name: runs[name].astype(float).fillna(pd.Series(added[name], index=runs.index, dtype=float)) for name in columns}
    return runs.assign(**filled)


def score_title(task: str | None) -> str:
    """What a task's score is called, e.g. ``mIoU``; ``score`` for a task that this version of vpbench does not have."""
    if task in (None, DEFAULT_TASK):
        return ACCURACY
    known = _known(str(task))
    return SCORE if known is None else known.metric_title


def has_masks(task: str | None) -> bool:
    """Whether what a task predicts are masks; never of a task that this version of vpbench does not have."""
    known = _known(task or DEFAULT_TASK)
    return known is not None and known.target == "mask"


@cache
def _known(task: str) -> type[Task[Any]] | None:
    try:
        return task_class(task)
    except VpbenchError:
        return None


def score_titles(runs: pd.DataFrame) -> str:
    """What the scores of several runs are called."""
    tasks = sorted({str(task) for task in runs["task"].dropna()}) if "task" in runs else []
    return " or ".join(dict.fromkeys(score_title(task) for task in tasks)) or ACCURACY
