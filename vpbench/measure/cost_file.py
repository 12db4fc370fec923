"""A table of costs as a parquet file: columns of the store where it has them, and what only a side-by-side measurement knows.

These are no runs, and a results folder is no place for them: ``pandas.read_parquet`` opens the file.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pyarrow as pa

from vpbench.core.errors import StoreError, UsageError
from vpbench.core.files import write_atomically
from vpbench.store import schema
from vpbench.store.checked_parquet import write_table

COSTS_VERSION = 1

_OF_THE_STORE = (
    "status", "error", "backbone", "weights", "image_size", "classes", "method_config", "fidelity", "precision",
    "params_trainable", "params_method", "params_active", "params_head", "params_total", "params_by_part", "bytes_saved",
    "flops_forward", "flops_inference", "macs_forward", "flops_train_step", "latency_ms_p10", "latency_ms_p50", "latency_ms_p90",
    "latency_unmerged_ms_p50", "throughput", "throughput_batch", "train_step_ms", "train_images_per_s", "mem_kind",
    "mem_train_peak", "mem_infer_peak", "energy_train_j", "energy_infer_j", "vpbench_version", "git_commit", "git_dirty",
    "python", "torch", "timm", "platform", "device", "device_name", "threads",
)  # fmt: skip
_OWN = {
    "flops_ratio": (pa.float64(), "flops_forward by that of the plain backbone"),
    "latency_ratio": (pa.float64(), "time of one image by the plain backbone's directly before, median over the rounds"),
    "infer_ratio": (pa.float64(), "the same for a batch in inference"),
    "train_ratio": (pa.float64(), "time of a training step by the plain backbone's inference of as many images"),
    "train_batch": (pa.int64(), "images of a training step"),
    "rounds": (pa.int64(), "rounds of timing behind these figures"),
}

COLUMNS: dict[str, tuple[pa.DataType, str]] = {
    "method": (pa.string(), "name, with its preset behind a colon; or the plain backbone"),
    **{name: schema.COLUMNS[name] for name in _OF_THE_STORE},
    **_OWN,
}

SCHEMA = pa.schema(
    [pa.field(name, kind, metadata={"description": text}) for name, (kind, text) in COLUMNS.items()],
    metadata={"vpbench_costs": str(COSTS_VERSION)},
)


def check_writable(path: Path) -> None:
    """Tests whether the file can be written, before anything is measured.

    Raises:
        UsageError: for another ending than .parquet.
        StoreError: when the file cannot be written.
    """
    if path.suffix != ".parquet":
        raise UsageError(f"--output {path}: the table is written as FILE.parquet; --json gives JSON on stdout.")
    probe = path.with_name(f".{path.name}.{os.getpid()}.probe")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise StoreError(f"{path} cannot be written: {error.strerror or error}. Choose another --output FILE.") from error


def write_costs(rows: list[dict[str, Any]], path: Path) -> None:
    """Write the rows to one file, atomically.

    Raises:
        StoreError: when the file cannot be written.
    """
    table = pa.Table.from_pylist(rows, schema=SCHEMA)
    try:
        write_atomically(path, lambda partial: write_table(table, partial))
    except OSError as error:
        raise StoreError(f"{path} cannot be written: {error.strerror or error}. Choose another --output FILE.") from error
