"""Rows of other machines: what is new, what is the same, what differs, and what comes along."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from store_rows import accuracies, fill, make_row

from vpbench.core.checksums import DamagedError
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
    kept = sorted(path.name for path in here.artefacts_folder.joinpath("a").iterdir())
    assert kept == ["SHA256SUMS", "curve.csv"]  # ours were of another training


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
            "not a readable result.*has no status",
        ),
        (lambda path: write_export(_named(path, "../../a"), path), r"not a readable result.*run_id '\.\./\.\./a' is no name"),
        (lambda path: write_export(_named(path, "compacted-1"), path), "a row whose run_id is no run's: 'compacted-1'"),
    ],
)
def test_no_source(make, text: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    make(path)
    with pytest.raises(StoreError, match=text) as caught:
        open_source(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


HOSTILE = {
    "method": "a/b", "backbone": "/../../../victim/fig1", "dataset": "../x", "suite": "a\\b", "dataset_group": "a\nb",
}  # fmt: skip


@pytest.mark.parametrize(("column", "value"), [*HOSTILE.items(), ("backbone", ""), ("dataset", ".."), ("method", "\x1b[31m")])
def test_names_that_are_none(column: str, value: str, tmp_path: Path) -> None:
    there = fill(tmp_path / "there", make_row("a", **{column: value}), make_row("b"))
    if not value and column != "backbone":
        return
    with pytest.raises(StoreError, match=f"there has a row whose {column} is no name") as caught:
        open_source(there.folder)
    assert str(caught.value).isprintable()


def link_a_file(there: Path, here: Path, secret: Path) -> None:
    (there / "_artefacts" / "a").mkdir(parents=True)
    (there / "_artefacts" / "a" / "curve.csv").symlink_to(secret / "passwd")


def link_a_log(there: Path, here: Path, secret: Path) -> None:
    (there / "_logs").mkdir()
    (there / "_logs" / "a.log").symlink_to(secret / "passwd")


def link_the_logs(there: Path, here: Path, secret: Path) -> None:
    (secret / "a.log").write_text("secret")
    (there / "_logs").symlink_to(secret)


def link_a_folder(there: Path, here: Path, secret: Path) -> None:
    (there / "_artefacts").mkdir()
    (there / "_artefacts" / "a").symlink_to(secret)


def link_all_folders(there: Path, here: Path, secret: Path) -> None:
    (secret / "a").mkdir()
    (secret / "a" / "passwd").write_text("secret")
    (there / "_artefacts").symlink_to(secret)


def link_ours(there: Path, here: Path, secret: Path) -> None:
    (there / "_artefacts" / "a").mkdir(parents=True)
    (there / "_artefacts" / "a" / "curve.csv").write_text("epoch")
    (here / "_artefacts").mkdir(parents=True)
    (here / "_artefacts" / "a").symlink_to(secret)


def link_a_file_of_ours(there: Path, here: Path, secret: Path) -> None:
    (here / "_artefacts" / "a").mkdir(parents=True)
    (here / "_artefacts" / "a" / "curve.csv").symlink_to(secret / "passwd")


LINKS = [link_a_file, link_a_log, link_the_logs, link_a_folder, link_all_folders, link_ours, link_a_file_of_ours]


@pytest.mark.parametrize("link", LINKS, ids=lambda link: link.__name__)
def test_links_are_refused(link, tmp_path: Path) -> None:
    """Nothing outside is copied, changed or deleted, and nothing is written."""
    there, here = fill(tmp_path / "there", make_row("a"), make_row("b")), Store(tmp_path / "here")
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "passwd").write_text("secret")
    link(there.folder, here.folder, secret)
    before = {path: path.read_text() for path in secret.rglob("*") if path.is_file()}
    with pytest.raises(StoreError, match="is a symbolic link, and import takes files alone") as caught:
        take_in(here, there.folder)
    assert str(caught.value).isprintable()
    assert {path: path.read_text() for path in secret.rglob("*") if path.is_file()} == before
    copied = [path for path in here.folder.rglob("*") if path.is_file() and not path.is_symlink()]
    assert not copied
    assert here.statuses() == {}


def test_artefacts_on_a_larger_disk(tmp_path: Path) -> None:
    """Our own folder of artefacts may be a link that the user has made."""
    there, here = fill(tmp_path / "there", make_row("a")), Store(tmp_path / "here")
    there.write_artefact("a", "curve.csv", write("epoch"))
    (tmp_path / "disk").mkdir()
    here.folder.mkdir()
    (here.folder / "_artefacts").symlink_to(tmp_path / "disk")
    take_in(here, there.folder)
    assert (tmp_path / "disk" / "a" / "curve.csv").read_text() == "epoch"


def test_a_folder_among_our_artefacts(tmp_path: Path) -> None:
    there, here = fill(tmp_path / "there", make_row("a")), fill(tmp_path / "here", make_row("a", status="failed", acc1=None))
    (here.folder / "_artefacts" / "a" / "notes").mkdir(parents=True)
    with pytest.raises(StoreError, match=r"notes is no file, and would be lost: move it away"):
        take_in(here, there.folder)
    assert here.statuses() == {"a": "failed"}


def test_odd_things_among_their_artefacts_are_not_copied(tmp_path: Path) -> None:
    there, here = fill(tmp_path / "there", make_row("a")), Store(tmp_path / "here")
    folder = there.write_artefact("a", "curve.csv", write("epoch")).parent
    (folder / "below").mkdir()
    (folder / ".hidden").touch()
    os.mkfifo(folder / "pipe")
    (folder / "a\nb").touch()
    there.log_path("a").parent.mkdir()
    os.mkfifo(there.log_path("a"))
    take_in(here, there.folder)
    assert sorted(path.name for path in here.artefact_path("a", "x").parent.iterdir()) == ["SHA256SUMS", "curve.csv"]


def test_a_damaged_artefact_stays_one(tmp_path: Path) -> None:
    there, here = fill(tmp_path / "there", make_row("a")), Store(tmp_path / "here")
    there.write_artefact("a", "curve.csv", write("epoch")).write_text("epock")
    take_in(here, there.folder)
    with pytest.raises(DamagedError):
        here.read_artefact("a", "curve.csv")


def _named(path: Path, run_id: str):
    table = fill(path.parent / "x", make_row("a")).read().table
    return table.set_column(0, "run_id", [[run_id]])
