"""A row that can be published, for tests that change it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from vpbench.store.importing import open_source

PUBLISHED = Path(__file__).resolve().parents[2] / "results" / "published"


def published_row() -> dict[str, Any]:
    """A published run of linear probing on digits, with what this version records beyond that of its time."""
    rows = open_source(PUBLISHED / "mini_vit-nano_3seeds.parquet").rows.to_pylist()
    row = next(row for row in rows if (row["method"], row["dataset"], row["seed"]) == ("linear", "digits", 42))
    parts = {"head": row["params_head"], "backbone": row["params_total"] - row["params_head"]}
    counts = {"val_correct": round(row["val_acc1"] * row["n_val"] / 100), "params_by_part": json.dumps(parts)}
    return {**row, **counts, "macs_forward": row["flops_forward"] // 2, "batch_parts": 1, "checkpoint_blocks": False}
