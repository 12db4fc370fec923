"""Random bits of every file that vpbench writes and reads again: no other value, no crash, and no row lost without a word."""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load, save
from store_rows import fill, make_row
from sweeps import some

from vpbench.core.checksums import DamagedError
from vpbench.core.errors import StoreError
from vpbench.planning.plan import stored_runs
from vpbench.store import reading
from vpbench.store.artefacts import CHECKSUMS
from vpbench.store.compacting import compact
from vpbench.store.exporting import write_export
from vpbench.store.importing import open_source
from vpbench.store.store import Store

FLIPS = 80
ROWS = [make_row(name, acc1=100 * number / 800, correct=number, total=800) for name, number in (("a", 553), ("b", 559))]


def flips(content: bytes, count: int = FLIPS) -> Iterator[bytes]:
    """Copies of a file with one bit flipped, or a few, and some that lost their end."""
    rng = np.random.default_rng(0)
    for number in range(count):
        if number % 10 == 9:
            yield content[: rng.integers(0, len(content))]
            continue
        damaged = np.frombuffer(content, np.uint8).copy()
        for place in rng.integers(0, len(content), 1 + 2 * (number % 3 == 2)):
            damaged[place] ^= np.uint8(1 << rng.integers(0, 8))
        if damaged.tobytes() != content:
            yield damaged.tobytes()


def each_byte(content: bytes, place: int, length: int) -> Iterator[bytes]:
    """A bit of every byte of a part of a file flipped."""
    for at in range(place, place + length):
        yield content[:at] + bytes([content[at] ^ 1 << at % 8]) + content[at + 1 :]


def check_rows(store: Store, path: Path, expected: dict[str, dict[str, object]]) -> None:
    """Every run's row is as it was, or its file is named."""
    found = store.read()
    rows = {row["run_id"]: row for row in found.table.to_pylist()}
    assert all(row == expected[run_id] for run_id, row in rows.items())
    assert rows.keys() == expected.keys() or path in [broken for broken, _ in found.broken]
    assert not any("\n" in line for line in found.left_out)
    assert Store(store.folder).read_row("a") in (None, expected["a"])


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return fill(tmp_path / "runs", *ROWS)


def expected_of(store: Store) -> dict[str, dict[str, object]]:
    return {row["run_id"]: row for row in store.read().table.to_pylist()}


def test_rows(store: Store) -> None:
    expected, path = expected_of(store), store.row_path("a")
    content = path.read_bytes()
    line = content.rindex(b"vpbench-row ")
    for damaged in (*flips(content), *each_byte(content, line, 35)):
        path.write_bytes(damaged)
        check_rows(store, path, expected)
    assert set(expected) == {"a", "b"}


def test_compacted_files(store: Store) -> None:
    expected = expected_of(store)
    path = compact(store).path
    assert path is not None
    content = path.read_bytes()
    assert expected_of(store) == expected
    line, tail = content.rindex(b"vpbench-sum "), len(content) - 8
    for damaged in (*flips(content), *each_byte(content, line, 35), *each_byte(content, tail, 8)):
        path.write_bytes(damaged)
        check_rows(store, path, expected)


def test_pages_have_checksums_for_other_programs(store: Store) -> None:
    """The footer of parquet has none, so this finds what is wrong with values alone."""
    path = compact(store).path
    assert path is not None
    content = path.read_bytes()
    chunk = pq.ParquetFile(path).metadata.row_group(0).column(0)
    start = chunk.dictionary_page_offset if chunk.has_dictionary_page else chunk.data_page_offset
    place = start + chunk.total_compressed_size - 2
    path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
    with pytest.raises(OSError, match=r"(?i)crc|checksum"):
        pq.ParquetFile(path, page_checksum_verification=True).read()


def test_exported_files(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    rows = store.read().table
    write_export(rows, path)
    assert open_source(path).rows.to_pylist() == rows.to_pylist()
    for damaged in flips(path.read_bytes()):
        path.write_bytes(damaged)
        with pytest.raises(StoreError, match=r"rows\.parquet is not a readable result"):
            open_source(path)


def test_compaction_leaves_a_damaged_row_where_it_is(store: Store) -> None:
    path = store.row_path("a")
    content = path.read_bytes()
    place = content.index(b"vpbench-row") - 20
    path.write_bytes(damaged := content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :])
    done = compact(store)
    assert [broken for broken, _ in done.broken] == [path]
    assert path.read_bytes() == damaged
    assert done.rows == 1
    assert store.statuses() == {"b": "ok"}


def test_the_cached_copy_of_rows(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is made anew."""
    monkeypatch.setattr(reading, "WORTH_A_COPY", 2)
    expected, path = expected_of(store), store.folder / "_cache" / "rows.arrow"
    content = path.read_bytes()
    for damaged in (*flips(content, 30), *each_byte(content, 0, 24)):
        path.write_bytes(damaged)
        found = store.read()
        assert {row["run_id"]: row for row in found.table.to_pylist()} == expected and not found.broken
        assert path.read_bytes() == content


@pytest.mark.parametrize("name", ["features.npz", "predictions.npz", "curve.csv", "weights.safetensors", "noise.csv"])
def test_artefacts(name: str, store: Store) -> None:
    content = os.urandom(2000)
    path = store.write_artefact("a", name, lambda partial: partial.write_bytes(content) and None)
    assert store.read_artefact("a", name) == content
    sums = path.with_name(CHECKSUMS)
    assert sums.read_text() == f"{hashlib.sha256(content).hexdigest()}  {name}\n"
    for damaged in flips(content, 60):
        path.write_bytes(damaged)
        with pytest.raises(DamagedError, match="checksum"):
            store.read_artefact("a", name)
    assert not store.has_artefact("a", name)
    path.write_bytes(content)
    for damaged in flips(sums.read_bytes(), 60):
        sums.write_bytes(damaged)
        try:
            assert store.read_artefact("a", name) == content
        except DamagedError:
            continue


def test_a_run_with_a_damaged_artefact_is_done_again(store: Store) -> None:
    """Where it is asked for, as the message says of whoever reads it."""
    run: Any = SimpleNamespace(spec=SimpleNamespace(run_id="a"))
    assert not stored_runs([run], store, ["curve.csv"])
    path = store.write_artefact("a", "curve.csv", lambda partial: partial.write_text("epoch\n") and None)
    assert stored_runs([run], store, ["curve.csv"]) == {"a"}
    path.write_text("epocH\n")
    assert not stored_runs([run], store, ["curve.csv"], whole=True)
    assert stored_runs([run], store, [], whole=True) == stored_runs([run], store, ["curve.csv"]) == {"a"}


def test_artefacts_of_earlier_versions_have_no_checksum(store: Store) -> None:
    store.write_artefact("a", "curve.csv", lambda path: path.write_text("epoch\n") and None)
    store.artefact_path("a", CHECKSUMS).unlink()
    assert store.read_artefact("a", "curve.csv") == b"epoch\n"
    with pytest.raises(FileNotFoundError):
        store.read_artefact("a", "weights.safetensors")


def test_an_artefact_that_is_written_again(store: Store) -> None:
    for text in ("one", "two"):
        store.write_artefact("a", "curve.csv", lambda path, text=text: path.write_text(text) and None)
        store.write_artefact("a", "noise.csv", lambda path: path.write_text("sigma") and None)
        assert store.read_artefact("a", "curve.csv") == text.encode()
    assert len(store.artefact_path("a", CHECKSUMS).read_text().splitlines()) == 2


def test_checkpoints(store: Store) -> None:
    file = io.BytesIO()
    torch.save({"now": torch.arange(100.0)}, file)
    store.write_checkpoint("a", file.getvalue())
    path = store.checkpoint_path("a")
    content = path.read_bytes()
    assert store.read_checkpoint("a") == file.getvalue()
    for damaged in (*flips(content), *each_byte(content, 0, 24)):
        path.write_bytes(damaged)
        with pytest.raises(DamagedError):
            store.read_checkpoint("a")
    path.write_bytes(file.getvalue())  # as earlier versions wrote it
    assert store.read_checkpoint("a") == file.getvalue()


def test_weights_would_be_read_without_a_word() -> None:
    """Why artefacts need checksums: safetensors has none."""
    content = save({"head.weight": torch.ones(4)})
    damaged = content[:-1] + bytes([content[-1] ^ 1])
    assert load(damaged)["head.weight"].tolist() != [1.0] * 4


@pytest.mark.parametrize(
    ("columns", "text"),
    some(
        [
            ({"acc1": 101.1}, "acc1 101.1 is not between 0 and 100"),
            ({"acc5": -1.0}, "acc5 -1 is not between"),
            ({"mean_per_class": 1e30}, "mean_per_class 1e+30 is not between"),
            ({"val_acc1": float("inf")}, "val_acc1 inf is not between"),
            ({"correct": 9, "total": 8, "acc1": None}, "correct 9 is more than total"),
            ({"correct": -1, "total": 8}, "correct -1 is negative"),
            ({"correct": 7, "total": 8, "acc1": 50.0}, "acc1 50 is not correct by total"),
            ({"val_correct": 7, "n_val": 8, "val_acc1": 50.0}, "val_acc1 50 is not val_correct by n_val"),
            ({"status": "fine"}, "status 'fine' is none of ok, diverged"),
            ({"status": None}, "a row has no status"),
            ({"method": None}, "a row has no method"),
            ({"dataset": ""}, "a row has no dataset"),
        ],
        4,
    ),
)
def test_a_row_that_cannot_be_a_result(columns: dict[str, object], text: str, tmp_path: Path) -> None:
    """However it came about, its file is named, and every way of reading leaves it out."""
    store = fill(tmp_path, make_row("a", **columns), make_row("b"))
    for found in (store.read(), store.read(["run_id"]), store.read(["acc1", "method"])):
        (line,) = found.left_out
        assert text in line and "a.parquet is not a readable result and is left out: " in line
        assert found.table["run_id"].to_pylist() == ["b"]
    assert store.statuses() == {"b": "ok"}
    assert store.read_row("a") is None
    assert compact(store).rows == 1
    assert (tmp_path / "a.parquet").exists()


@pytest.mark.parametrize("columns", [{"acc1": float("nan")}, {"acc1": 69.13, "correct": 553, "total": 800}, {"acc1": 0.0}])
def test_rows_that_can(columns: dict[str, object], tmp_path: Path) -> None:
    assert fill(tmp_path, make_row("a", **columns)).statuses() == {"a": "ok"}


def test_one_row_of_many_that_cannot_be_a_result(tmp_path: Path) -> None:
    store = fill(tmp_path / "runs", make_row("a"), make_row("b"), make_row("c"))
    table = store.read().table
    wrong = table.set_column(table.column_names.index("acc1"), "acc1", [[50.0, 120.0, 50.0]])
    other = Store(tmp_path / "other")
    other.folder.mkdir()
    pq.write_table(wrong, other.folder / "study.parquet")
    assert other.statuses() == {"a": "ok", "c": "ok"}
    (line,) = other.read().left_out
    assert line.endswith("left out: its acc1 120 is not between 0 and 100 (1 of its 3 rows; the others are read)")


BAD_JSON: dict[str, Callable[[], str]] = {
    "a list": lambda: "[1]",
    "a number": lambda: "5",
    "nested": lambda: "[" * 100_000,
    "nested and closed": lambda: '{"run_id": ' + "[" * 50_000 + "]" * 50_000 + "}",
    "cut off": lambda: '{"run_id": "a"',
    "wrong type": lambda: json.dumps({**make_row("a"), "seed": "0"}),
    "a fraction": lambda: json.dumps({**make_row("a"), "seed": 0.5}),
    "a list for a text": lambda: json.dumps({**make_row("a"), "method": ["vpt"]}),
    "a surrogate": lambda: json.dumps({**make_row("a"), "method": "\udc80"}),
    "a truth": lambda: json.dumps({**make_row("a"), "seed": True}),
    "another column": lambda: json.dumps({**make_row("a"), "zeal": 1}),
    "64 bits and more": lambda: json.dumps({**make_row("a"), "seed": 2**63}),
    "nothing": lambda: json.dumps({**make_row("a"), "seed": None}),
    "digits": lambda: '{"run_id": "a", "seed": ' + "9" * 5000 + "}",
    "no run_id": lambda: json.dumps({"status": "ok", "method": "vpt", "dataset": "digits"}),
}


@pytest.mark.parametrize("text", some(BAD_JSON.values(), 5), ids=BAD_JSON)
def test_a_row_with_a_right_checksum_that_is_none(text: Callable[[], str], store: Store) -> None:
    from vpbench.store.checked_parquet import ROW, with_checksum
    from vpbench.store.schema import SCHEMA_VERSION

    sink = io.BytesIO()
    pq.write_table(pq.ParquetFile(store.row_path("a")).read(), sink)
    store.row_path("a").write_bytes(with_checksum(sink.getvalue(), ROW, SCHEMA_VERSION, text().encode()))
    for found in (store.read(), store.read(["status"])):
        assert [path.name for path, _ in found.broken] == ["a.parquet"]
        assert found.table["run_id"].to_pylist() == ["b"]
    assert store.read_row("a") is None
