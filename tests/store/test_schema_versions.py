"""Rows of every version of the schema that was ever written are read, reported on, compacted and imported.

``versions/VERSION[_WHAT].parquet`` holds a row with a value in every column, written by the vpbench of that version (or, where a
commit had the schema before it had a writer, with that schema).
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from store_rows import fill, make_row
from sweeps import some

from vpbench.core.errors import StoreError
from vpbench.store.compacting import compact
from vpbench.store.importing import open_source, plan_merge, write_merge
from vpbench.store.schema import COLUMNS, SCHEMA, SCHEMA_VERSION
from vpbench.store.store import Store

VERSIONS = sorted((Path(__file__).parent / "versions").glob("*.parquet"))
RESULTS = Path(__file__).parents[2] / "results"
PUBLISHED = sorted(path for folder in ("baselines", "published") for path in (RESULTS / folder).glob("*.parquet"))


def plain(row: dict[str, Any]) -> dict[str, Any]:
    return {name: list(value) if isinstance(value, np.ndarray) else value for name, value in row.items()}


def filled(row: dict[str, Any]) -> dict[str, Any]:
    """What rows say of their task that were written when there was classification alone."""
    if "score" in row:
        return {}
    return {"task": "classification", "metric": "acc1", "score": row.get("acc1"), "val_score": row.get("val_acc1")}


@pytest.mark.parametrize("path", some(VERSIONS, 4), ids=lambda path: path.stem)
def test_every_version_is_read(path: Path, tmp_path: Path) -> None:
    written = pq.ParquetFile(path)
    (row,) = written.read().to_pylist()
    assert written.schema_arrow.metadata[b"vpbench_schema"].decode() == path.stem.partition("_")[0]
    assert None not in row.values()
    store = fill(tmp_path / "runs", make_row("new"))
    shutil.copy(path, store.row_path(row["run_id"]))
    frame = store.load().set_index("run_id")
    assert [frame.index.name, *frame.columns] == list(COLUMNS)
    found = frame.loc[row["run_id"]].to_dict()
    for name in COLUMNS.keys() - {"run_id"}:
        if name in row:
            assert plain(found)[name] == row[name], name
        elif name in filled(row):
            assert found[name] == filled(row)[name], name
        else:
            assert pd.isna(found[name]), name
    now = {name: row.get(name) for name in COLUMNS} | filled(row)
    assert store.read_row(row["run_id"]) == now
    assert store.statuses() == {row["run_id"]: "ok", "new": "ok"}
    compact(store)
    assert Store(store.folder).read_row(row["run_id"]) == now
    other = Store(tmp_path / "other")
    write_merge(other, plan_merge(other, [open_source(path)]))
    assert other.read_row(row["run_id"]) == now


def test_the_schema_of_today_is_among_them() -> None:
    """A change of the schema needs a file here, so that it is still read after the next change."""
    last = max(VERSIONS, key=lambda path: (int(path.stem.partition("_")[0]), "_" not in path.stem))
    assert pq.read_schema(last).equals(SCHEMA), f"add versions/{SCHEMA_VERSION}.parquet: a row with a value in every column"
    assert last.stem == str(SCHEMA_VERSION)


@pytest.mark.parametrize("path", PUBLISHED, ids=lambda path: path.stem)
def test_published_rows_are_read(path: Path, tmp_path: Path) -> None:
    rows = pq.ParquetFile(path).read().to_pylist()
    store = Store(tmp_path / "runs")
    write_merge(store, plan_merge(store, [open_source(path)]))
    frame = store.load().set_index("run_id")
    assert len(frame) == len(rows)
    for name in ("acc1", "score"):
        wanted = np.array([row.get(name, row["acc1"]) for row in rows], float)
        np.testing.assert_array_equal(frame.loc[[row["run_id"] for row in rows], name].to_numpy(float), wanted)


def test_a_version_to_come_is_refused(tmp_path: Path) -> None:
    """Where rows decide what is run, or get into a file of this version; looking at them stays possible."""
    store = fill(tmp_path, make_row("a"))
    store.write_row(make_row("b"))
    table = pq.read_table(store.row_path("b")).append_column("energy_j", pa.array([3.5]))
    pq.write_table(table.replace_schema_metadata({"vpbench_schema": "99"}), store.row_path("b"))
    for attempt in (
        store.statuses,
        lambda: compact(store),
        lambda: open_source(tmp_path),
        lambda: open_source(store.row_path("b")),
    ):
        with pytest.raises(StoreError, match=r"has rows of schema version 99, and vpbench .* knows versions up to") as caught:
            attempt()
        assert "\n" not in str(caught.value)
    assert sorted(path.name for path in tmp_path.glob("*.parquet")) == ["a.parquet", "b.parquet"]
    assert store.load()["run_id"].tolist() == ["a", "b"]
