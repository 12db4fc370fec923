"""How long reading many rows takes: ``python benchmarks/speed/report_rows.py [rows] [compacted]`` (10,000 rows by default).

Writes a store of made-up runs (20 methods, 20 data sets, the rest seeds) to a temporary folder and times ``vpbench report`` in a
process of its own, start of Python included, and the columns of a table in this process. With one file per run: the first time,
when every file has to be read, and then, when the copy of the rows that the first report leaves is there; then compacting itself,
and all of it again. With ``compacted``: from one file, as ``vpbench compact`` leaves it.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from vpbench.core.hashing import digest
from vpbench.store.compacting import compact
from vpbench.store.folder import Store
from vpbench.store.schema import SCHEMA

METHODS = ("linear", "vpt", "e2vpt", "insvp", "viapt", "ivpt", *(f"other{place}" for place in range(14)))
TABLE = ("run_id", "status", "method", "backbone", "suite", "dataset", "seed", "epochs", "acc1", "params_trainable")
DATA_SETS = tuple(f"data{place}" for place in range(20))


def made_up(place: int) -> dict[str, Any]:
    """A run that differs from the others in method, data set, seed and accuracy."""
    method, dataset, seed = METHODS[place % 20], DATA_SETS[place // 20 % 20], place // 400
    return {
        "run_id": digest([method, dataset, seed]),
        "status": "ok",
        "started_at": datetime(2025, 1, 1, tzinfo=UTC),
        "method": method,
        "method_version": 1,
        "method_config": json.dumps({"prompt_length": 10}),
        "backbone": "vit-nano",
        "weights": "embedded",
        "weights_sha256": "5a" * 32,
        "image_size": 40,
        "suite": "custom",
        "dataset": dataset,
        "dataset_group": "natural",
        "data_digest": digest(dataset),
        "preprocess": json.dumps({"resize": "stretch"}),
        "recipe": json.dumps({"lr": 0.01}),
        "seed": seed,
        "epochs": 12,
        "precision": "fp32",
        "selection": "last",
        "acc1": 50.0 + place % 20 + seed / 10,
        "params_trainable": 1000 * (1 + place % 20),
        "flops_forward": 250_000_000,
    }


def write_store(folder: Path, count: int) -> None:
    """``count`` runs, a file each."""
    for row in map(made_up, range(count)):
        pq.write_table(pa.Table.from_pylist([row], schema=SCHEMA), folder / f"{row['run_id']}.parquet")


def timed(folder: Path, *options: str) -> float:
    """Seconds that a report takes in a process of its own."""
    start = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "vpbench", "report", "--results", str(folder), *options], check=True, stdout=subprocess.DEVNULL
    )
    return time.perf_counter() - start


def read_columns(folder: Path) -> float:
    """Seconds for the columns of a table."""
    start = time.perf_counter()
    Store(folder).load(TABLE)
    return time.perf_counter() - start


def measure(folder: Path, what: str) -> None:
    first = timed(folder)
    again = sorted(timed(folder) for _ in range(5))
    columns = sorted(read_columns(folder) for _ in range(5))
    sys.stdout.write(
        f"{what}: first report {first:.2f} s, then {again[2]:.2f} s (median of 5, {again[0]:.2f} to {again[-1]:.2f});"
        f" {len(TABLE)} columns {columns[2]:.2f} s\n"
    )


def main() -> None:
    words = sys.argv[1:]
    count = next((int(word) for word in words if word.isdecimal()), 10_000)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if "compacted" in words:
            Store(folder).write_compacted(pa.Table.from_pylist([made_up(place) for place in range(count)], schema=SCHEMA))
        else:
            write_store(folder, count)
            measure(folder, f"{count} rows, a file each")
            start = time.perf_counter()
            compact(Store(folder))
            sys.stdout.write(f"compacting them {time.perf_counter() - start:.1f} s\n")
        measure(folder, f"{count} rows in one file")
        empty = sorted(timed(folder, "--help") for _ in range(5))
        sys.stdout.write(f"start of the command alone {empty[2]:.2f} s\n")


if __name__ == "__main__":
    main()
