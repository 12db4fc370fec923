"""Rows of other machines: what is new, what is the same, what differs, and what comes along."""

from __future__ import annotations

from pathlib import Path

import pytest
from store_rows import accuracies, fill, make_row

from vpbench.core.errors import StoreError
from vpbench.store.claims import COMPACTING
from vpbench.store.compacting import compact
from vpbench.store.exporting import write_export
from vpbench.store.importing import Merge, open_source, plan_merge, write_merge
from vpbench.store.store import Store


def take_in(store: Store, *paths: Path, replace: bool = False) -> Merge:
    merge = plan_merge(store, [open_source(path) for path in paths], replace=replace)
    write_merge(store, merge)
    return merge


def write(text: str):
    return lambda path: path.write_text(text) and None


def test_new_rows_and_what_lies_beside_them(tmp_path: Path) -> None:
    there = fill(tmp_path / "there", make_row("a"), make_row("b", acc1=60.0, seed=1))
    compact(there)
    fill(there.folder, make_row("c", first_losses=[2.0, 1.0]))
    there.write_artefact("b", "curve.csv", write("epoch\n"))
    there.log_path("b").parent.mkdir()
    there.log_path("b").write_text("said")
    here = fill(tmp_path / "here", make_row("a", latency_ms_p50=3.0))
    merge = take_in(here, there.folder)
    assert (sorted(merge.new), merge.same, merge.conflicts) == (["b", "c"], 1, [])
    assert here.read_row("b") == there.read_row("b")
    assert (here.read_row("a") or {})["latency_ms_p50"] == 3.0
    assert here.artefact_path("b", "curve.csv").read_text() == "epoch\n"
    assert here.log_path("b").read_text() == "said"
    assert take_in(here, there.folder).same == 3
    assert accuracies(here) == accuracies(there)


@pytest.mark.parametrize("kind", ["parquet", "csv"])
def test_through_one_file(kind: str, tmp_path: Path) -> None:
    import pandas as pd

    there = fill(tmp_path / "there", make_row("a", first_losses=[2.0, 1.0], total=3), make_row("b", status="oom", error="é, x"))
    path = tmp_path / "new" / f"rows.{kind}"
    write_export(there.read().table, path)
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]
    if kind == "csv":
        frame = pd.read_csv(path)
        assert frame[["run_id", "first_losses", "error"]].fillna("").values.tolist() == [
            ["a", "[2.0, 1.0]", ""],
            ["b", "", "é, x"],
        ]
        with pytest.raises(StoreError, match="is not a parquet file"):
            open_source(path)
        return
    here = Store(tmp_path / "here")
    take_in(here, path)
    assert [here.read_row(run_id) for run_id in "ab"] == [there.read_row(run_id) for run_id in "ab"]


def test_conflicts(tmp_path: Path) -> None:
    here = fill(tmp_path / "here", make_row("a"), make_row("b", val_acc1=float("nan")), make_row("c"))
    here.write_artefact("a", "weights.safetensors", write("ours"))
    compact(here)
    there = fill(
        tmp_path / "there", make_row("a", acc1=51.0, correct=9), make_row("b"), make_row("c", status="diverged", acc1=None)
    )
    there.write_artefact("a", "curve.csv", write("theirs"))
    merge = plan_merge(here, [open_source(there.folder)])
    assert [(conflict["run_id"], conflict["differ"]) for conflict in merge.conflicts] == [
        ("a", {"acc1": [50.0, 51.0], "correct": [None, 9]}),
        ("c", {"status": ["ok", "diverged"], "acc1": [50.0, None]}),
    ]
    assert (merge.new, merge.better, merge.replaced, merge.same) == ({}, {}, {}, 1)
    write_merge(here, merge)
    assert accuracies(here)["a"] == 50.0
    assert sorted(take_in(here, there.folder, replace=True).replaced) == ["a", "c"]
    assert accuracies(here)["a"] == 51.0
    assert here.statuses() == {"a": "ok", "b": "ok", "c": "diverged"}
    assert [path.name for path in here.artefact_path("a", "").iterdir()] == ["curve.csv"]  # ours were of another training


def test_runs_that_went_wrong(tmp_path: Path) -> None:
    """A repetition elsewhere that went well is taken; a failure never takes the place of anything."""
    here = fill(
        tmp_path / "here", make_row("a", status="failed", acc1=None), make_row("b"), make_row("c", status="oom", acc1=None)
    )
    there = fill(
        tmp_path / "there", make_row("a"), make_row("b", status="timeout", acc1=None), make_row("c", status="failed", acc1=None)
    )
    merge = take_in(here, there.folder)
    assert (sorted(merge.better), merge.same, merge.conflicts, merge.new) == (["a"], 2, [], {})
    assert here.statuses() == {"a": "ok", "b": "ok", "c": "oom"}


def test_sources_are_compared_with_each_other(tmp_path: Path) -> None:
    first = fill(tmp_path / "first", make_row("a", acc1=1.0), make_row("b", status="failed", acc1=None))
    second = fill(tmp_path / "second", make_row("a", acc1=2.0), make_row("b", acc1=3.0))
    merge = plan_merge(Store(tmp_path / "here"), [open_source(first.folder), open_source(second.folder)])
    assert merge.conflicts[0]["differ"] == {"acc1": [1.0, 2.0]}
    assert merge.conflicts[0]["source"] == str(second.folder)
    here = Store(tmp_path / "here")
    assert not here.folder.exists()
    take_in(here, first.folder, second.folder, replace=True)
    assert accuracies(here) == {"a": 2.0, "b": 3.0}


def test_a_run_under_way_is_left_alone(tmp_path: Path) -> None:
    here = fill(tmp_path / "here", make_row("a"), make_row("b"))
    there = fill(tmp_path / "there", make_row("a", acc1=1.0), make_row("b", acc1=2.0))
    merge = plan_merge(here, [open_source(there.folder)], replace=True)
    with here.claims.claim("a"):
        assert write_merge(Store(here.folder), merge) == ["a"]
    assert accuracies(here) == {"a": 50.0, "b": 2.0}
    with here.claims.claim(COMPACTING), pytest.raises(StoreError, match="importing into it"):
        write_merge(Store(here.folder), merge)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda path: None, "does not exist"),
        (lambda path: path.mkdir(), "has no rows"),
        (lambda path: path.write_bytes(b"no"), "is not a readable result"),
        (
            lambda path: write_export(fill(path.parent / "x", make_row("a")).read(["run_id"]).table, path),
            "not a result.*status None",
        ),
        (lambda path: write_export(_named(path, "../../a"), path), r"not a result.*'\.\./\.\./a'"),
        (lambda path: write_export(_named(path, "compacted-1"), path), "not a result.*'compacted-1'"),
    ],
)
def test_no_source(make, text: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    make(path)
    with pytest.raises(StoreError, match=text) as caught:
        open_source(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def _named(path: Path, run_id: str):
    table = fill(path.parent / "x", make_row("a")).read().table
    return table.set_column(0, "run_id", [[run_id]])
