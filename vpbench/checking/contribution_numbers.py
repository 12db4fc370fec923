"""Numbers of a row to publish that no run has, beyond those of :mod:`vpbench.store.plausible`."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

from vpbench.interface.method import Method
from vpbench.models.registry import method_class, method_registry
from vpbench.tasks import task_class, task_registry

_CLOCKS_DIFFER = timedelta(days=1)
_LOSSES = ("train_loss", "first_losses")
_PERCENT = ("miou", "macc", "aacc", "iou_per_class", "miou_ms", "macc_ms", "aacc_ms")
_LATENCIES = ("latency_ms_p10", "latency_ms_p50", "latency_ms_p90")
_ROUNDED = 0.006  # percent

Row = Mapping[str, Any]


def odd_numbers(row: Row) -> Iterator[str]:
    """Sentences on numbers that cannot be."""
    yield from _odd_times(row)
    yield from _odd_scores(row)
    yield from _out_of_range(row)
    yield from _odd_sizes(row)
    yield from _odd_losses(row)


def _odd_times(row: Row) -> Iterator[str]:
    if row["started_at"] is None or row["started_at"] > datetime.now(UTC) + _CLOCKS_DIFFER:
        yield f"it began at {row['started_at']}"
    if _is_tested(row) and row["stage"] != "shift" and not (row["wall_s"] or 0) > 0:
        yield "it took no time"
    known = [row[name] for name in _LATENCIES if row[name] is not None]
    if known != sorted(known):
        yield f"its {', '.join(_LATENCIES)} do not rise"


def _is_tested(row: Row) -> bool:
    return bool(row["status"] == "ok" and row["stage"] != "search")


def _odd_scores(row: Row) -> Iterator[str]:
    score, metric = row["score"], _metric(row["task"])
    if metric == "acc1" and row["val_score"] != row["val_acc1"]:
        yield f"its val_score {row['val_score']} is not its val_acc1"
    if _is_tested(row) and score is None:
        yield "it is ok, and has no score"
    if row["stage"] == "search" and score is not None:
        yield "it is a trial, and was tested"
    if row["status"] in ("diverged", "unsupported") and score is not None:
        yield f"it is {row['status']}, and has a score"
    if score is None:
        return
    if row["metric"] != metric:
        yield f"its metric is {row['metric']}, and that of its task is {metric}"
    elif metric is not None and row[metric] != score:
        yield f"its score {score:g} is not its {metric}"
    if row["iou_per_class"] and not _fits_classes(row):
        yield "its miou is not the mean of its iou_per_class"


@cache
def _metric(task: str | None) -> str | None:
    """The column that the score of a task repeats; None for a task that vpbench does not have."""
    return task_class(task).metric if task and task_registry().has(task) else None


def _fits_classes(row: Row) -> bool:
    there = [value for value in row["iou_per_class"] if value is not None]
    return bool(there) and row["miou"] is not None and abs(sum(there) / len(there) - row["miou"]) < _ROUNDED


def _out_of_range(row: Row) -> Iterator[str]:
    for name, values in row.items():
        for value in values if isinstance(values, list) else [values]:
            if isinstance(value, bool) or not isinstance(value, int | float):
                continue
            if not math.isfinite(value):
                yield f"its {name} is {value}"
            elif value < 0 and name not in _LOSSES:
                yield f"its {name} {value:g} is negative"
            elif value > 100 and name in _PERCENT:
                yield f"its {name} {value:g} is more than 100"


def _odd_sizes(row: Row) -> Iterator[str]:
    if row["status"] == "ok" and not row["params_trainable"]:
        yield "it has no trained parameters"
    if row["selected_epoch"] is not None and not 1 <= row["selected_epoch"] <= (row["epochs_run"] or 0):
        yield f"its selected_epoch {row['selected_epoch']} is none of its {row['epochs_run']} epochs_run"
    if row["params_by_part"] is not None and _sum(row["params_by_part"]) != row["params_total"]:
        yield "its params_by_part do not add up to its params_total"
    if row["params_active"] is not None and row["params_active"] > (row["params_total"] or 0):
        yield "its params_active are more than its params_total"
    forward = row["flops_forward"]
    if row["macs_forward"] is not None and row["macs_forward"] != (forward or 0) // 2:
        yield f"its macs_forward {row['macs_forward']} is not half of its flops_forward {forward}"
    if forward is not None and row["flops_train_step"] is not None and row["flops_train_step"] < forward:
        yield f"its flops_train_step {row['flops_train_step']} is less than its flops_forward {forward}"


def _sum(parts: str) -> int | None:
    """The sum of the values of a JSON object; None for any other text."""
    try:
        return sum(map(int, json.loads(parts).values()))
    except (AttributeError, TypeError, ValueError, RecursionError):
        return None


def _odd_losses(row: Row) -> Iterator[str]:
    """Cross-entropy is never negative; a method's own terms may be."""
    for name in _LOSSES:
        values = row[name] if isinstance(row[name], list) else [row[name]]
        negative = [value for value in values if value is not None and value < 0]
        if negative and not _has_own_loss(str(row["method"]).partition(":")[0]):
            yield f"its {name} {negative[0]:g} is negative, which a cross-entropy cannot be"


@cache
def _has_own_loss(method: str) -> bool:
    return not method_registry().has(method) or method_class(method).loss is not Method.loss
