"""``vpbench check --contribution``: columns that are gone, empty, of another type, or with values that cannot be."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from published_row import published_row
from sweeps import some

from vpbench.checking.contribution import check_contributions
from vpbench.checking.contribution_columns import column_faults
from vpbench.checking.contribution_origin import NO_COMMIT, origin_fault
from vpbench.interface.method import Method
from vpbench.models.registry import method_class, method_registry
from vpbench.store.checked_parquet import write_table
from vpbench.store.exporting import write_export
from vpbench.store.schema import COLUMNS, SCHEMA, SCHEMA_VERSION

ROOT = Path(__file__).resolve().parents[2]
VERSIONS = sorted((ROOT / "tests" / "store" / "versions").glob("?.parquet"))
Row = dict[str, Any]
Call = Callable[..., tuple[int, str, str]]

# Of a run of this version that is ok and was tested; other columns may be empty.
RECORDED = (
    *("group_id", "wall_s", "method_version", "method_config", "fidelity", "dataset_group", "preprocess", "classes", "n_test"),
    *("recipe", "epochs_run", "selected_epoch", "train_loss", "first_losses", "metric", "acc5", "mean_per_class", "correct"),
    *("total", "val_score", "val_correct", "params_trainable", "params_method", "params_active", "params_head", "params_total"),
    *("params_by_part", "bytes_saved", "batch_parts", "checkpoint_blocks", "device_name", "git_commit", "python"),
)
IMPOSSIBLE: list[tuple[Row, str]] = [
    ({"train_loss": -3.0}, "its train_loss -3 is negative, which a cross-entropy cannot be"),
    ({"first_losses": [2.0, -1.0]}, "its first_losses -1 is negative"),
    ({"train_loss": float("nan")}, "its train_loss is nan"),
    ({"recipe": "x"}, "its recipe is not that of its specification"),
    ({"recipe": "{}"}, "its recipe is not that of its specification"),
    ({"preprocess": '{"resize": "crop"}'}, "its preprocess is not that of its specification"),
    ({"method_config": "[]"}, "its method_config is not that of its specification"),
    ({"params_trainable": 1}, "its params_trainable is 1, and vpbench counts "),
    ({"params_total": 1}, "its params_by_part do not add up to its params_total"),
    ({"params_head": 1}, "its params_head is 1, and vpbench counts "),
    ({"params_by_part": "x"}, "its params_by_part do not add up"),
    ({"flops_forward": 1}, "is not half of its flops_forward 1"),
    ({"flops_forward": 2, "macs_forward": 1}, "its flops_forward is 2, less than the "),
    ({"flops_train_step": 1}, "its flops_train_step 1 is less than its flops_forward"),
    ({"bytes_saved": -1}, "its bytes_saved -1 is negative"),
    ({"selected_epoch": 99}, "its selected_epoch 99 is none of its "),
    ({"status": "diverged"}, "it is diverged, and has a score"),
    ({"metric": None}, "its metric is None, and that of its task is acc1"),
    ({"val_score": 1.0}, "its val_score 1.0 is not its val_acc1"),
    ({"latency_ms_p10": 9.0, "latency_ms_p50": 2.0, "latency_ms_p90": 3.0}, "do not rise"),
]


@pytest.fixture(scope="module")
def ordinary() -> Row:
    return published_row()


def table(*rows: Row) -> pa.Table:
    return pa.Table.from_pylist(list(rows), schema=SCHEMA)


def faults(rows: pa.Table, folder: Path) -> str:
    """What is said of a file with a checksum and the version of the schema, whatever its columns are."""
    path = folder / "mine.parquet"
    write_table(rows.replace_schema_metadata(SCHEMA.metadata), path)
    (found,) = check_contributions([path])
    return "\n".join(found.faults)


def test_a_good_row(ordinary: Row, tmp_path: Path) -> None:
    assert faults(table(ordinary), tmp_path) == ""


@pytest.mark.parametrize("name", some(COLUMNS, 12))
def test_a_column_is_gone(name: str, ordinary: Row, tmp_path: Path) -> None:
    found = faults(table(ordinary).drop_columns([name]), tmp_path)
    assert name in found and "\n" not in found
    assert name == "run_id" or f"it lacks the 1 column {name} of schema version" in found


def test_a_score_without_its_counts(ordinary: Row, tmp_path: Path) -> None:
    forged = {**ordinary, "acc1": 99.9, "score": 99.9}
    assert "it lacks the 1 column correct" in faults(table(forged).drop_columns(["correct"]), tmp_path)
    assert "it has a score, and no correct" in faults(table({**forged, "correct": None}), tmp_path)


@pytest.mark.parametrize("name", some(COLUMNS, 12))
def test_a_column_of_another_type(name: str, ordinary: Row) -> None:
    rows = table(ordinary)
    other = pa.int64() if pa.types.is_string(COLUMNS[name][0]) else pa.string()
    changed = rows.set_column(rows.column_names.index(name), name, pa.nulls(1, other))
    assert f"its column {name} is of type {other}, and not {COLUMNS[name][0]}" in "; ".join(
        column_faults(changed, SCHEMA_VERSION)
    )


def test_a_seed_as_text(ordinary: Row, tmp_path: Path) -> None:
    rows = table(ordinary)
    changed = rows.set_column(rows.column_names.index("seed"), "seed", rows["seed"].cast(pa.string()))
    assert "its column seed is of type string, and not int64" in faults(changed, tmp_path)


@pytest.mark.parametrize("name", some(RECORDED, 10))
def test_an_empty_value(name: str, ordinary: Row, tmp_path: Path) -> None:
    found = faults(table({**ordinary, name: None}), tmp_path)
    assert (NO_COMMIT if name == "git_commit" else name) in found


@pytest.mark.parametrize(("changes", "words"), some(IMPOSSIBLE, 10))
def test_impossible_values(changes: Row, words: str, ordinary: Row, tmp_path: Path) -> None:
    assert words in faults(table({**ordinary, **changes}), tmp_path)


def test_losses_that_may_be_negative(ordinary: Row, tmp_path: Path) -> None:
    """Of methods that add terms of their own."""
    own = [name for name in method_registry().names() if method_class(name).loss is not Method.loss]
    assert own
    for name in own:
        assert "negative" not in faults(table({**ordinary, "method": name, "train_loss": -3.0}), tmp_path)


@pytest.mark.parametrize("path", VERSIONS, ids=lambda path: path.stem)
def test_columns_of_every_version(path: Path) -> None:
    """A file has those of its own version, and not of a later one that has more."""
    rows = pq.read_table(path)
    assert list(column_faults(rows, int(path.stem))) == []
    later = VERSIONS[VERSIONS.index(path) + 1 :]
    for other in later:
        new = set(pq.read_schema(other).names) - set(rows.column_names)
        (text,) = column_faults(rows, int(other.stem))
        assert all(name in text for name in new)


def test_a_file_that_is_cut_off(ordinary: Row, tmp_path: Path) -> None:
    path = tmp_path / "mine.parquet"
    write_export(table(ordinary), path)
    whole = path.read_bytes()
    for size in (len(whole) - 1, len(whole) // 2, 10):
        path.write_bytes(whole[:size])
        (found,) = check_contributions([path])
        assert "it is cut off or damaged" in found.faults[0] and len(found.faults) == 1


def test_where_rows_come_from() -> None:
    clean = {"git_commit": "a" * 40, "git_dirty": False}
    assert origin_fault(clean) is None
    assert origin_fault({**clean, "git_commit": None}) == NO_COMMIT
    assert "pip install -e ." in NO_COMMIT and "run it again" in NO_COMMIT
    assert "uncommitted changes on aaaaaaaa" in str(origin_fault({**clean, "git_dirty": True}))
    assert "pip install -e ." in (ROOT / "docs" / "published.md").read_text()


def test_the_export_says_it_early(ordinary: Row, tmp_path: Path, call: Call) -> None:
    rows = [{**ordinary, "git_commit": None, "git_dirty": None}, {**ordinary, "run_id": "1" * 32}]
    (tmp_path / "runs").mkdir()
    write_export(table(*rows), tmp_path / "runs" / "rows.parquet")
    code, out, err = call("export", "--publish", "--to", tmp_path / "mine.parquet", "--results", tmp_path / "runs")
    assert (code, err) == (0, f"warning: 1 row cannot be published: {NO_COMMIT}.\n") and out.startswith("2 rows in ")
