"""Rows for tests of the store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vpbench.store.store import Store


def make_row(run_id: str = "a", **columns: Any) -> dict[str, Any]:
    return {"run_id": run_id, "status": "ok", "method": "vpt", "dataset": "digits", "acc1": 50.0, "seed": 0, **columns}


def fill(folder: Path, *rows: dict[str, Any]) -> Store:
    store = Store(folder)
    for row in rows:
        store.write_row(row)
    return store


def accuracies(store: Store) -> dict[str, float]:
    """``acc1`` by run; fails where a run has two rows."""
    frame = store.load(["run_id", "acc1"])
    assert frame["run_id"].is_unique
    return dict(zip(frame["run_id"], frame["acc1"]))
