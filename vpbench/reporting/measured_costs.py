"""Times and memory of a file of ``vpbench measure --output``, for tables and figures that would have those of the runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from vpbench.core.errors import StoreError, UsageError
from vpbench.core.hashing import canonical_json
from vpbench.core.names import shortened
from vpbench.reporting.settings import settings_in

ALIKE = ("backbone", "image_size", "precision", "method")
COLUMNS = ("train_ratio", "mem_train_peak", "latency_ms_p50", "device_name", "threads")


def read_costs(path: Path) -> list[dict[str, Any]]:
    """Rows of methods that could be measured.

    Raises:
        StoreError: when the file cannot be read as one of ``vpbench measure``.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
        ok = [row for row in rows if row["status"] == "ok" and row["method_config"]]
        for row in ok:
            _ = [row[name] for name in (*ALIKE, *COLUMNS)]
    except (OSError, pa.ArrowException, KeyError) as error:
        raise StoreError(f"{path} is no file of 'vpbench measure --output': {shortened(str(error))}.") from error
    if not ok:
        raise StoreError(f"{path} has no method that could be measured.")
    return ok


def with_costs(runs: pd.DataFrame, path: Path) -> pd.DataFrame:
    """Runs with the file's costs in place of their own, and nothing where it lacks the method with these options.

    Raises:
        StoreError: as for :func:`read_costs`.
        UsageError: when it has none of these runs' methods on their backbone, with their options.
    """
    measured = {_key(row): row for row in read_costs(path)}
    found = [measured.get(_key(run), {}) for run in runs.to_dict("records")]
    if not any(found):
        raise UsageError(
            f"--costs {path} has no method of these runs with their options, on their backbone at their image size and precision:"
            f" make it with vpbench measure --backbone NAME --image-size N --suite NAME --precision NAME --output {path}."
        )
    columns: dict[str, Any] = {name: [row.get(name) for row in found] for name in COLUMNS}
    return runs.assign(**columns).astype(dict.fromkeys(("train_ratio", "mem_train_peak", "latency_ms_p50"), float))


def _key(row: dict[Any, Any]) -> tuple[Any, ...]:
    """What must be the same; the classes of the head matter little."""
    return *(row[name] for name in ALIKE), canonical_json(settings_in(row["method_config"]))
