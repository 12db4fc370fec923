"""What the score of a run is: the metric of its task, under one column for all tasks."""

from __future__ import annotations

from functools import cache

import pandas as pd

from vpbench.core.errors import VpbenchError
from vpbench.spec.run_spec import DEFAULT_TASK
from vpbench.tasks import task_class

SCORE = "score"
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


@cache
def score_title(task: str | None) -> str:
    """What a task's score is called, e.g. ``mIoU``; ``score`` for a task that this version of vpbench does not have."""
    if task in (None, DEFAULT_TASK):
        return ACCURACY
    try:
        return task_class(str(task)).metric_title
    except VpbenchError:
        return SCORE


def score_titles(runs: pd.DataFrame) -> str:
    """What the scores of several runs are called."""
    tasks = sorted({str(task) for task in runs["task"].dropna()}) if "task" in runs else []
    return " or ".join(dict.fromkeys(score_title(task) for task in tasks)) or ACCURACY
