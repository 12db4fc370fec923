"""A run's file: parquet for every program, and a row that is read quickly only as long as it says what the columns say."""

from __future__ import annotations

import math
from contextlib import suppress
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from store_rows import make_row
from test_store import EXAMPLES, PERFECT

from vpbench.core.checksums import DamagedError
from vpbench.store import reading, row_file
from vpbench.store.row_file import as_table, decode_row
from vpbench.store.schema import COLUMNS, SCHEMA
from vpbench.store.store import Store

EXTREMES = {
    "throughput": math.inf, "train_loss": 5e-324, "bytes_saved": -(2**63), "flops_forward": 2**63 - 1, "error": 'ä "\\\n\0 €'
}  # fmt: skip


def slow_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "decode_row", lambda _: None)


@pytest.mark.parametrize("values", [EXTREMES, {"acc1": None, "val_acc1": math.nan}, {}], ids=["extremes", "empty", "few"])
def test_both_readings_agree(values: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path)
    full = {name: EXAMPLES[kind] for name, (kind, _) in COLUMNS.items()}
    store.write_row({**full, **PERFECT} | values)
    store.write_row(make_row("b", **values))
    quick = store.read(), store.read(["acc1", "started_at"])
    slow_only(monkeypatch)
    for fast, slow in zip(quick, (store.read(), store.read(["acc1", "started_at"])), strict=True):
        assert fast.table.schema.equals(slow.table.schema)
        pd.testing.assert_frame_equal(fast.table.to_pandas(), slow.table.to_pandas(), check_exact=True)
        assert (fast.versions, fast.files, fast.origins) == (slow.versions, slow.files, slow.origins)
    assert quick[0].table.schema.equals(SCHEMA)


def test_the_row_is_read_without_parquet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path)
    store.write_row(make_row("a", acc1=12.5))
    monkeypatch.setattr(pq, "ParquetFile", None)
    assert store.load(["acc1"])["acc1"].tolist() == [12.5]


def test_a_file_that_another_program_has_changed(tmp_path: Path) -> None:
    """It has no row beside its columns any more, though it may have been written with the same settings."""
    store = Store(tmp_path)
    path = store.write_row(make_row("a", acc1=50.0))
    table = pq.read_table(path)
    table = table.set_column(table.column_names.index("acc1"), "acc1", pa.array([60.0]))
    pq.write_table(table, path, compression="none", use_dictionary=False, write_statistics=False)
    assert decode_row(path.read_bytes()) is None
    assert store.load()["acc1"].tolist() == [60.0]
    pd.read_parquet(path).assign(acc1=70.0).to_parquet(path)
    assert store.load()["acc1"].tolist() == [70.0]


def test_a_changed_byte_is_noticed(tmp_path: Path) -> None:
    content = Store(tmp_path).write_row(make_row()).read_bytes()
    assert as_table([decode_row(content) or {}])["acc1"].to_pylist() == [50.0]
    for place in range(len(content)):
        damaged = content[:place] + bytes([content[place] ^ 0x10]) + content[place + 1 :]
        with suppress(DamagedError):  # only the number of the line's version is not in the checksum
            assert decode_row(damaged) is None, place


@pytest.mark.parametrize("content", [b"", b"PAR1", b"PAR1" * 5, b"\xff" * 40 + b"PAR1"])
def test_no_row(content: bytes) -> None:
    assert decode_row(content) is None


def test_another_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a row of another version means is for the columns to say."""
    monkeypatch.setattr(row_file, "SCHEMA_VERSION", 998)
    path = Store(tmp_path).write_row(make_row("a"))
    monkeypatch.undo()
    assert b"vpbench-row 998 " in path.read_bytes()
    assert decode_row(path.read_bytes()) is None
    assert Store(tmp_path).load()["run_id"].tolist() == ["a"]
