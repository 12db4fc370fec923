"""Times and memory of a file of ``vpbench measure --output``, for tables and figures that would have those of the runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from vpbench.core.errors import StoreError, UsageError
from vpbench.core.hashing import canonical_json
from vpbench.core.names import shortened
from vpbench.core.user_warning import warn
from vpbench.reporting.frame import Filters
from vpbench.reporting.settings import settings_in

if TYPE_CHECKING:
    import pyarrow as pa

ALIKE = ("backbone", "image_size", "precision", "method")
COLUMNS = ("train_ratio", "mem_train_peak", "latency_ms_p50", "device_name", "threads")
_NEEDED = ("status", "method_config", *ALIKE, *COLUMNS)


def read_costs(path: Path) -> list[dict[str, Any]]:
    """Rows of methods that could be measured.

    Raises:
        StoreError: when the file cannot be read as one of ``vpbench measure``.
    """
    table = _opened(path)
    if missing := [name for name in _NEEDED if name not in table.column_names]:
        raise _no_costs(path, f"it has no column {missing[0]}")
    rows: list[dict[str, Any]] = table.to_pylist()
    ok = [row for row in rows if row["status"] == "ok" and row["method_config"]]
    if not ok:
        raise StoreError(f"{path} has no method that could be measured.")
    return ok


def _opened(path: Path) -> pa.Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not path.exists():
        raise _no_costs(path, "it does not exist")
    if path.is_dir():
        raise _no_costs(path, "it is a folder")
    try:
        return pq.read_table(path)
    except pa.ArrowException as error:
        raise _no_costs(path, "it is no parquet file, or a damaged one") from error
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {shortened(error.strerror or str(error))}.") from error


def _no_costs(path: Path, why: str) -> StoreError:
    return StoreError(f"{path} is no file of 'vpbench measure --output': {why}.")


def with_costs(runs: pd.DataFrame, path: Path, filters: Filters | None = None) -> pd.DataFrame:
    """Runs with the file's costs in place of their own, and nothing where it lacks the method with these options.

    Args:
        filters: which of the runs are shown; the others only tell what the options of a row usually are.

    Raises:
        StoreError: as for :func:`read_costs`.
        UsageError: when it has none of the shown runs' methods on their backbone, with their options.
    """
    measured = {_key(row): row for row in read_costs(path)}
    found = pd.Series([measured.get(_key(run), {}) for run in runs.to_dict("records")], index=runs.index, dtype=object)
    kept = runs if filters is None else filters.apply(runs)
    wanted, there = _places(kept.to_dict("records")), _places(measured.values())
    if not any(found[kept.index]):
        raise UsageError(
            f"--costs {path} has no method of these runs with their options, on their backbone at their image size and precision."
            f" The file is of {_listed(there)}; the runs are of {_listed(wanted)}. Make it with"
            f" vpbench measure --backbone NAME --image-size N --suite NAME --precision NAME --output {path}."
        )
    if absent := wanted - there:
        warn(f"--costs {path} has nothing for runs of {_listed(absent)}: their figures show no times and no memory.")
    columns: dict[str, Any] = {name: [row.get(name) for row in found] for name in COLUMNS}
    return runs.assign(**columns).astype(dict.fromkeys(("train_ratio", "mem_train_peak", "latency_ms_p50"), float))


def _places(rows: Iterable[Mapping[Any, Any]]) -> set[tuple[Any, ...]]:
    """Backbones with image size and precision, of rows that say them."""
    return {place for row in rows if not any(map(pd.isna, place := tuple(row[name] for name in ALIKE[:3])))}


def _listed(places: Iterable[tuple[Any, ...]]) -> str:
    return ", ".join(f"{name} at {size:g} px in {precision}" for name, size, precision in sorted(places)) or "no known backbone"


def _key(row: dict[Any, Any]) -> tuple[Any, ...]:
    """What must be the same; the classes of the head matter little."""
    return *(row[name] for name in ALIKE), canonical_json(settings_in(row["method_config"]))
