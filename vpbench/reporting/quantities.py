"""Values of the store as text with their units."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd

from vpbench.reporting.frame import is_missing
from vpbench.store.schema import COLUMNS

MISSING = "-"

# The first column of each block of the schema, in its order; a column that is added later falls into the block before it.
_BLOCKS: Mapping[str, str] = MappingProxyType(
    {
        "run_id": "Run",
        "method": "Method",
        "backbone": "Backbone",
        "suite": "Data",
        "seed": "Training",
        "metric": "Accuracy",
        "params_trainable": "Size",
        "flops_forward": "Cost",
        "vpbench_version": "Environment",
    }
)
REGION_SCORES = tuple(f"{name}{suffix}" for name in ("miou", "macc", "aacc") for suffix in ("", "_ms"))
_UNITS: Mapping[str, str] = MappingProxyType(
    {
        **dict.fromkeys(("score", "val_score", "acc1", "acc5", "mean_per_class", "val_acc1", *REGION_SCORES), "%"),
        **dict.fromkeys(("latency_ms_p10", "latency_ms_p50", "latency_ms_p90", "latency_unmerged_ms_p50", "train_step_ms"), "ms"),
        **dict.fromkeys(("flops_forward", "flops_inference", "flops_train_step"), "FLOPs per image"),
        **dict.fromkeys(
            ("n_train", "n_val", "n_test", "total", "correct", "correct5", "val_correct", "throughput_batch", "batch_size"),
            "images",
        ),
        **dict.fromkeys(("macs_forward", "macs_fvcore"), "multiply-adds per image"),
        **dict.fromkeys(("throughput", "train_images_per_s"), "images/s"),
        **dict.fromkeys(("energy_train_j", "energy_infer_j"), "J per image"),
        **dict.fromkeys(("wall_s", "prepare_s"), "s"),
        "image_size": "px",
    }
)
_BYTES = frozenset({"bytes_saved", "mem_train_peak", "mem_infer_peak"})
_NAMES = frozenset({"seed", "selected_epoch", "method_version"})  # integers that count nothing: no thousands separators


def blocks(columns: list[str]) -> list[tuple[str, list[str]]]:
    """The columns of a store by block; those that the schema does not have come last."""
    found: dict[str, list[str]] = {}
    block = ""
    for name in COLUMNS:
        block = _BLOCKS.get(name, block)
        if name in columns:
            found.setdefault(block, []).append(name)
    if others := [name for name in columns if name not in COLUMNS]:
        found["Of another version"] = others
    return list(found.items())


def meaning(column: str) -> str:
    """The schema's description of a column."""
    return COLUMNS[column][1] if column in COLUMNS else ""


def quantity(column: str, value: Any) -> str:
    """A value with its unit; ``-`` for a missing one."""
    if isinstance(value, str):
        return value
    if isinstance(value, (list, tuple, np.ndarray)):
        return ", ".join(f"{number:.6g}" for number in value) or MISSING
    return _of_one(column, value)


@lru_cache(maxsize=10_000, typed=True)  # most values of a large store are those of many runs
def _of_one(column: str, value: Any) -> str:
    if is_missing(value):
        return MISSING
    if isinstance(value, (bool, np.bool_)):
        return "yes" if value else "no"
    if isinstance(value, pd.Timestamp):
        return value.strftime("%Y-%m-%d %H:%M:%S UTC")
    if column in _BYTES:
        return f"{int(value):,} bytes ({_binary(int(value))})"
    unit = f" {_UNITS[column]}" if column in _UNITS else ""
    if isinstance(value, (int, np.integer)):
        return f"{value}" if column in _NAMES else f"{value:,}{unit}"
    return f"{value:.6g}{unit}"


def _binary(count: int) -> str:
    size = float(count)
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.3g} {unit}" if unit != "B" else f"{count} B"
        size /= 1024
    return f"{size:.3g} GiB"
