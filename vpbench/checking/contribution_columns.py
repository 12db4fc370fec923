"""Which columns a file of rows to publish has, and which of them a run has filled in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa

from vpbench.core.names import counted
from vpbench.store.schema import COLUMNS
from vpbench.tasks import task_class, task_registry

# The schema version since which every file has a column; those that are not here are as old as the schema.
_SINCE = {
    **dict.fromkeys(("params_active", "stage", "search", "val_correct"), 2),
    "checkpoint_blocks": 3,
    **dict.fromkeys(("params_by_part", "flops_inference", "macs_forward", "latency_unmerged_ms_p50", "train_images_per_s"), 4),
    **dict.fromkeys(("mem_kind", "energy_train_j", "energy_infer_j", "batch_parts", "linear_kernel"), 4),
    **dict.fromkeys(("prepare_s", "data_path", "weights_path"), 5),
    **dict.fromkeys(("task", "metric", "score", "val_score"), 6),
    **dict.fromkeys(("miou", "macc", "aacc", "iou_per_class", "miou_ms", "macc_ms", "aacc_ms"), 6),
    "experiment": 7,
    **dict.fromkeys(("trained_run", "trained_on", "interpolation"), 8),
}
# Rows of earlier versions are given these when they are read, or had the last one within version 1.
_NO_SIGN = ("task", "metric", "score", "val_score", "params_active")

_EVERY_RUN = (
    *("group_id", "spec", "method_version", "method_config", "fidelity", "backbone", "weights", "image_size", "task", "suite"),
    *("dataset_group", "data_digest", "preprocess", "classes", "n_train", "n_val", "n_test", "seed", "recipe", "optimizer", "lr"),
    *("weight_decay", "epochs", "batch_size", "precision", "selection", "wall_s", "device_name"),
)
_TRAINED = (
    *("epochs_run", "selected_epoch", "train_loss", "first_losses", "params_trainable", "params_method", "params_active"),
    *("params_head", "params_total", "params_by_part", "bytes_saved", "checkpoint_blocks", "batch_parts"),
)
_TOP = 5  # classes, up to which a top-5 accuracy says nothing


def column_faults(raw: pa.Table, version: int) -> Iterator[str]:
    """Sentences on columns that are not as vpbench writes them.

    Args:
        raw: the rows as they are in the file.
        version: of the schema, that the file names.
    """
    wanted = [name for name in COLUMNS if _SINCE.get(name, 1) <= version]
    if absent := [name for name in wanted if name not in raw.column_names]:
        yield f"it lacks the {counted(len(absent), 'column')} {', '.join(absent)} of schema version {version}"
    for name, kind in zip(raw.column_names, raw.schema.types):
        if name in COLUMNS and kind != COLUMNS[name][0]:
            yield f"its column {name} is of type {kind}, and not {COLUMNS[name][0]}"


def missing_values(row: Mapping[str, Any]) -> Iterator[str]:
    """Sentences on what every run records that ends like this one."""
    since = _version_of(row)
    for why, names in _needed(row):
        if lacking := [name for name in names if row[name] is None and _SINCE.get(name, 1) <= since]:
            yield f"{why} {', '.join(lacking)}"


def _version_of(row: Mapping[str, Any]) -> int:
    """The schema version that a run was written with, at least; files of today hold rows of earlier ones, too."""
    return max((since for name, since in _SINCE.items() if row[name] is not None and name not in _NO_SIGN), default=1)


def _needed(row: Mapping[str, Any]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Columns, each group with the beginning of a sentence that ends with those of them that are empty."""
    task = task_class(row["task"]) if row["task"] and task_registry().has(row["task"]) else None
    if row["stage"] == "shift":
        yield "it does not record", ("metric", "trained_run", "trained_on")
    else:
        yield "it does not record", _EVERY_RUN
        if row["status"] == "ok":
            yield "it does not record", _TRAINED
        if row["status"] == "ok" and row["n_val"]:
            yield "it has validation images, and no", ("val_score", *(task.always_validated if task else ()))
    if row["score"] is not None:
        top5 = ("acc5",) if row["correct5"] is not None and row["stage"] != "shift" and (row["classes"] or 0) > _TOP else ()
        yield "it has a score, and no", ("metric", *((task.metric, *task.always_recorded) if task else ()), *top5)
