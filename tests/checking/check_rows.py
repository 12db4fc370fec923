"""Rows of a small grid, as a good version of vpbench would leave them."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from vpbench.core.hashing import digest
from vpbench.store.schema import COLUMNS, SCHEMA
from vpbench.store.store import Store

# A command: words in, exit code, stdout and stderr out.
Call = Callable[..., tuple[int, str, str]]

SPEC: dict[str, Any] = {
    "method": {"name": "vpt", "preset": None, "version": 1, "config": {"prompt_length": 10, "deep": True}},
    "backbone": {"name": "vit-nano", "weights": "embedded", "sha256": "ab", "mean": [0.485], "std": [0.229]},
    "data": {"suite": "ci", "dataset": "digits", "digest": "d1"},
    "recipe": {"optimizer": "adamw", "lr": 0.002},
    "seed": 0,
}
SIZES = {"linear": (1930, 0), "vpt": (13450, 11520), "insvp": (28325, 26395)}
START = datetime(2025, 1, 1, tzinfo=UTC)


def make_row(method: str = "vpt", dataset: str = "digits", seed: int = 1, **columns: Any) -> dict[str, Any]:
    """One row. Losses and accuracy follow from method, data set and seed; ``columns`` override anything.

    ``spec`` may be a mapping of paths, e.g. ``{"recipe.lr": 0.1}``, to change in the specification.
    """
    spec = copy.deepcopy(SPEC)
    spec["method"]["name"], spec["data"]["dataset"], spec["seed"] = method, dataset, seed
    for path, value in columns.pop("spec", {}).items():
        *parents, name = path.split(".")
        place = spec
        for parent in parents:
            place = place[parent]
        place[name] = value
    rng = np.random.default_rng([seed, *method.encode(), *dataset.encode()])
    trainable, own = SIZES.get(method, (2000, 70))
    slower = 1.0 if method == "linear" else 1.4
    row = {
        "run_id": digest(spec), "group_id": digest({**spec, "seed": None}), "status": "ok", "error": "",
        "started_at": START + timedelta(minutes=seed), "wall_s": 5.0, "spec": json.dumps(spec, sort_keys=True),
        "method": method, "method_version": 1, "method_config": json.dumps(spec["method"]["config"]), "fidelity": "paper",
        "backbone": "vit-nano", "weights": "embedded", "weights_sha256": "ab", "image_size": 40, "suite": "ci",
        "dataset": dataset, "dataset_group": "natural", "data_digest": "d1", "classes": 10, "n_train": 320, "n_val": 200,
        "n_test": 797, "seed": seed, "epochs": 1, "epochs_run": 1, "precision": "fp32", "selection": "last",
        "selected_epoch": 1, "first_losses": list(2.5 + rng.random(5)), "acc1": 70 + 2 * float(rng.standard_normal()),
        "total": 797, "params_trainable": trainable, "params_method": own, "params_active": own,
        "params_head": 1930, "params_total": 2_700_000 + trainable, "bytes_saved": 4 * trainable + 200,
        "params_by_part": json.dumps({"head": 1930}), "flops_forward": 80_000_000, "flops_inference": 80_000_000,
        "flops_train_step": 240_000_000, "macs_forward": 40_000_000, "macs_fvcore": 40_000_000,
        "latency_ms_p50": 4.0 * slower, "train_step_ms": 100 * slower, "mem_train_peak": 10**9, "mem_infer_peak": 9 * 10**8,
        "vpbench_version": "0.1", "python": "3.11.0", "torch": "2.9.1", "timm": "1.0.22", "platform": "Linux x86_64",
        "device": "cpu", "device_name": "A processor", "threads": 1, "linear_kernel": "default",
    }  # fmt: skip
    return {**row, **columns}


def as_frame(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """As ``Store.load`` gives them."""
    table = pa.Table.from_pylist([{name: row.get(name) for name in COLUMNS} for row in rows], schema=SCHEMA)
    frame: pd.DataFrame = table.to_pandas(types_mapper={pa.int64(): pd.Int64Dtype()}.get)
    return frame


def grid(seeds: range | list[int], methods: tuple[str, ...] = ("linear", "vpt", "insvp"), **columns: Any) -> list[dict[str, Any]]:
    """Rows of all methods with all seeds."""
    return [make_row(method, seed=seed, **columns) for method in methods for seed in seeds]


def write_store(rows: list[dict[str, Any]], folder: Path) -> Path:
    """The rows as a results folder."""
    store = Store(folder)
    for row in rows:
        store.write_row(row)
    return folder
