"""How long a page over many runs takes: fills a store with plausible rows and writes the page twice.

    python benchmarks/speed/page_rows.py [--rows 10000] [--seeds 5] [--keep FOLDER]

The rows are of six methods with variants on 24 data sets, with learning curves for one run in ten and 1 % failures. The
first page reads one small file per run; a store that was read before keeps a copy of its rows in one file.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from vpbench.core.hashing import digest
from vpbench.reporting.page import write_page
from vpbench.store.folder import Store
from vpbench.store.schema import COLUMNS, SCHEMA

_METHODS = ("linear", "vpt", "vpt:shallow", "e2vpt", "insvp", "viapt", "ivpt")
_SETS = 24
_START = datetime(2026, 1, 1, tzinfo=UTC)


def make_rows(count: int, seeds: int) -> list[dict[str, Any]]:
    """Rows of as many specifications as are needed, each with ``seeds`` seeds."""
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


def fill(folder: Path, rows: list[dict[str, Any]]) -> None:
    """One file per run, as ``vpbench run`` leaves them, and curves for one in ten."""
    folder.mkdir(parents=True)
    table = pa.Table.from_pylist([{name: row.get(name) for name in COLUMNS} for row in rows], schema=SCHEMA)
    for place, row in enumerate(rows):
        pq.write_table(table.slice(place, 1), folder / f"{row['run_id']}.parquet", compression="none", use_dictionary=False)
    curve = "phase,epoch,epochs,lr,train_loss,val_acc1\n" + "".join(f"train,{at},100,0.1,{4 / at},\n" for at in range(1, 101))
    store = Store(folder)
    for row in rows[::10]:
        store.write_artefact(row["run_id"], "curve.csv", lambda path: path.write_text(curve))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--seeds", type=int, default=5, help="runs of each specification")
    parser.add_argument("--keep", type=Path, help="write store and page here, and leave them")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        root = options.keep or Path(scratch)
        if not (root / "runs").exists():
            fill(root / "runs", make_rows(options.rows, options.seeds))
        for name, figures in (("first", False), ("again", False), ("with figures", True)):
            wall, cpu = time.perf_counter(), _cpu()
            write_page(root / "runs", root / "page", figures=figures)
            took = f"{time.perf_counter() - wall:.1f} s, {_cpu() - cpu:.1f} s of the processor"
            pages = sum(1 for path in (root / "page").rglob("*.html"))
            size = sum(path.stat().st_size for path in (root / "page").rglob("*") if path.is_file()) / 2**20
            print(f"{name}: {took}; {pages} pages, {size:.0f} MiB")  # noqa: T201
        assert "torch" not in sys.modules, "a page needs no torch"


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
