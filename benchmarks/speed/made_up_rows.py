"""Stores of synthetic runs for timing reports: plausible rows of methods with variants on 24 data sets, 1 % of them failures.

A store has a row file per run as written by ``vpbench run``, plain parquet files as written by another program or an
earlier version, or one file as written by ``vpbench compact``.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from vpbench.core.hashing import digest
from vpbench.store.row_file import encode_row
from vpbench.store.schema import COLUMNS, SCHEMA
from vpbench.store.store import Store

Kind = Literal["runs", "plain", "compacted"]
WORDS: dict[Kind, str] = {"runs": "a file per run", "plain": "a plain parquet file per run", "compacted": "one compacted file"}

_METHODS = ("linear", "vpt", "vpt:shallow", "e2vpt", "insvp", "viapt", "ivpt")
_SETS = 24
_START = datetime(2026, 1, 1, tzinfo=UTC)


def make_rows(count: int, seeds: int) -> list[dict[str, Any]]:
    """``count`` rows of different specifications with ``seeds`` seeds each."""
    rows: list[dict[str, Any]] = []
    while len(rows) < count:
        place = len(rows) // seeds
        variant, rest = divmod(place, len(_METHODS) * _SETS)
        method, dataset = _METHODS[rest // _SETS], f"set{rest % _SETS:02d}"
        config = {} if method == "linear" else {"prompt_length": 5 * (variant + 1), "deep": True, "dropout": 0.1}
        recipe = {"optimizer": "sgd", "lr": 0.25, "momentum": 0.9, "weight_decay": 1e-3, "batch_size": 64, "epochs": 100}
        recipe = recipe if method != "linear" else {**recipe, "weight_decay": 1e-3 / (variant + 1)}
        rows += [_row(place, method, dataset, seed, config, recipe) for seed in range(min(seeds, count - len(rows)))]
    return rows


def _row(place: int, method: str, dataset: str, seed: int, config: dict[str, Any], recipe: dict[str, Any]) -> dict[str, Any]:
    failed = (7 * place + seed) % 100 == 0
    noise = (place * 37 + seed * 11) % 100 / 50
    preprocess = {"resize": "stretch", "interpolation": "bicubic", "random_flip": False, "normalisation": "weights"}
    spec = {"method": method, "config": config, "data": dataset, "recipe": recipe, "preprocess": preprocess, "place": place}
    return {
        "run_id": digest({**spec, "seed": seed}), "group_id": digest(spec), "status": "diverged" if failed else "ok",
        "error": "the loss became NaN in epoch 3" if failed else "", "started_at": _START + timedelta(minutes=place),
        "wall_s": 812.5, "spec": json.dumps({**spec, "seed": seed}), "method": method, "method_version": 1,
        "method_config": json.dumps(config), "fidelity": "paper", "backbone": "vit_base_patch16_224", "weights": "file",
        "weights_sha256": "5a" * 32, "image_size": 224, "suite": "many", "dataset": dataset,
        "dataset_group": ("natural", "specialized", "structured")[int(dataset[3:]) % 3], "data_digest": digest(dataset),
        "preprocess": json.dumps(preprocess), "classes": 100, "n_train": 800, "n_val": 200, "n_test": 5000, "seed": seed,
        "recipe": json.dumps(recipe), "recipe_source": "many: a protocol; the paper, table 4", "optimizer": "sgd", "lr": 0.25,
        "weight_decay": 1e-3, "epochs": 100, "epochs_run": 100, "batch_size": 64, "precision": "bf16", "selection": "last",
        "selected_epoch": 100, "train_loss": 0.1, "first_losses": [4.6, 4.5, 4.4, 4.3, 4.2],
        "acc1": None if failed else 80 + noise, "acc5": None if failed else 95.0, "mean_per_class": None if failed else 79.5,
        "correct": 4000, "correct5": 4750, "total": 5000, "val_acc1": 81.0, "params_trainable": 170_000 + 100 * place,
        "params_method": 92_160, "params_active": 92_160, "params_head": 76_900, "params_total": 86_000_000,
        "bytes_saved": 680_000, "flops_forward": 35_000_000_000, "flops_train_step": 70_000_000_000,
        "macs_fvcore": 17_500_000_000, "latency_ms_p10": 4.1, "latency_ms_p50": 4.2 + noise / 10, "latency_ms_p90": 4.9,
        "throughput": 900.0, "throughput_batch": 64, "train_step_ms": 130.0, "mem_train_peak": 9_000_000_000,
        "mem_infer_peak": 1_200_000_000, "vpbench_version": "0.1.0", "git_commit": "84f0aa23055671984ce496cde26053e3bfdde831",
        "git_dirty": False, "python": "3.11.7", "torch": "2.4.0", "timm": "1.0.21", "platform": "Linux x86_64",
        "device": "cuda", "device_name": "some GPU", "threads": 8,
    }  # fmt: skip


def fill(folder: Path, rows: Iterable[dict[str, Any]], kind: Kind) -> Store:
    """Writes the rows to a store of the given kind."""
    store, rows = Store(folder), list(rows)
    folder.mkdir(parents=True, exist_ok=True)
    table = pa.Table.from_pylist([{name: row.get(name) for name in COLUMNS} for row in rows], schema=SCHEMA)
    if kind == "compacted":
        store.write_compacted(table)
        return store
    for place, row in enumerate(rows):
        path, own = store.row_path(row["run_id"]), table.slice(place, 1)
        if kind == "runs":
            path.write_bytes(encode_row(own))
        else:
            pq.write_table(own, path)
    return store


def say(text: str) -> None:
    """Prints a line without buffering."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
