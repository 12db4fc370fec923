"""Odd stores: each oddity is one line, and the rest is shown. And mixing, suites as columns, and the copy of a large store."""

from __future__ import annotations

import json
import os
import warnings
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
from report_rows import fill, frame_of, grid, labels_of, make_row

from vpbench.reporting.build_table import build_table
from vpbench.reporting.definition import load_definition
from vpbench.reporting.frame import load_rows
from vpbench.reporting.make_report import make_report
from vpbench.reporting.page import write_page
from vpbench.reporting.scores import with_scores
from vpbench.reporting.table import Cell, Table
from vpbench.store import reading
from vpbench.store.schema import SCHEMA
from vpbench.store.store import Store


def table_of(*rows: dict[str, object], paper: str = "insvp", mix: bool = False) -> Table:
    return build_table(frame_of(*rows), load_definition(paper, "1"), mix=mix)


def labels(table: Table) -> list[list[str]]:
    return [labels_of(section) for section in table.sections]


def test_two_schema_versions(tmp_path: Path) -> None:
    store = fill(tmp_path, make_row(), make_row("linear"))
    old = next(tmp_path.glob("*.parquet"))
    table = pq.read_table(old).drop_columns(["flops_forward", "selection"])
    pq.write_table(table.replace_schema_metadata({"vpbench_schema": "0"}), old)
    with pytest.warns(UserWarning, match=r"several schema versions \(1 of version 0, 1 of version \d+\)") as caught:
        text = str(make_report(1, results=store.folder))
    assert len(caught) == 1
    assert "linear" in text and "vpt" in text


def test_a_broken_file_among_good_ones(tmp_path: Path) -> None:
    store = fill(tmp_path, make_row(), make_row("linear"))
    (tmp_path / "broken.parquet").write_bytes(b"no")
    pd.DataFrame({"a": [1]}).to_parquet(tmp_path / "other.parquet")
    with pytest.warns(UserWarning) as caught:
        frame = load_rows(store)
    assert sorted(str(warning.message).partition(" is not")[0].rpartition("/")[2] for warning in caught) == [
        "broken.parquet", "other.parquet"
    ]  # fmt: skip
    assert len(frame) == 2


def test_trials_of_a_search_are_not_shown(tmp_path: Path) -> None:
    store = fill(tmp_path, make_row(), make_row("linear", stage="search", acc1=None, status="ok", val_acc1=99.0))
    assert load_rows(store)["method"].tolist() == ["vpt"]
    assert "Runs: 1," in str(make_report(1, results=store.folder))


def test_what_a_search_has_chosen_is_one_row() -> None:
    """Although every data set has another value; beside it stand runs whose settings nobody searched."""
    search = {"space": "s", "sampler": "grid", "trials": 4, "searched": ["recipe.lr", "prompt_length"]}
    chosen = {"stage": "final", "search": json.dumps(search), "minutes": 1}
    table = table_of(
        make_row("linear"), make_row(), make_row(dataset="sprites-location"),
        make_row(recipe={"lr": 0.5}, **chosen),
        make_row(dataset="sprites-location", recipe={"lr": 0.1}, options={"prompt_length": 50}, **chosen),
    )  # fmt: skip
    assert labels(table) == [["linear", "vpt", "vpt (tuned=s, 4 trials)"]]
    (line,) = (line for line in table.footer if line.startswith("Chosen on validation images"))
    assert line == ("Chosen on validation images for vpt, on each data set from 4 trials (s, grid): recipe.lr, prompt_length.")


def test_a_method_that_was_deleted_since() -> None:
    table = table_of(make_row("oldvp:preset", options={"size": 3}), make_row())
    assert labels(table) == [["vpt", "oldvp:preset"]]
    assert "Not in this version of vpbench, and shown as stored: oldvp." in table.footer


def test_a_suite_and_a_data_set_that_were_deleted_since() -> None:
    table = table_of(make_row(suite="gone", dataset="gone"), make_row("linear", suite="gone", dataset="gone"), paper="vpbench")
    assert [cell.text for cell in table.sections[0].rows[1].cells][:1] == ["80.0"]


@pytest.mark.parametrize("paper", ["insvp", "vpbench"])
def test_only_failures_and_one_row(paper: str) -> None:
    failures = table_of(make_row(acc1=None), make_row("linear", acc1=None, status="oom"), paper=paper)
    assert "Runs without a number: 1 diverged, 1 oom." in failures.footer
    assert labels(failures) == [["linear", "vpt"]]
    assert labels(table_of(make_row(), paper=paper)) == [["vpt"]]


# Mixing


def test_sections_are_not_ranked_together_unless_asked() -> None:
    rows = [make_row("vpt", acc1=80), make_row("insvp", acc1=90, recipe={"epochs": 100}), make_row("vpt", acc1=70, backbone="b")]
    apart = table_of(*rows)
    assert len(apart.sections) == 3
    assert not apart.ranked
    assert any("3 sections: their runs are not alike" in line for line in apart.footer)
    (mixed,) = table_of(*rows, mix=True).sections
    found = dict(zip(labels_of(mixed), (row.cells[0].rank for row in mixed.rows)))
    assert found == {"vpt [vit-nano, 12 epochs]": 2, "vpt [b, 12 epochs]": None, "insvp [vit-nano, 100 epochs]": 1}
    assert "not alike, as asked for (--mix)" in mixed.notes[0]
    assert table_of(make_row(), mix=True) == table_of(make_row())


# Suites as columns


def test_a_summary_has_a_mean_per_suite() -> None:
    rows = [
        make_row(method, dataset, seed, acc1 + 2 * seed, dataset_group=group)
        for method, acc1 in (("linear", 50.0), ("vpt", 60.0))
        for dataset, group in (("digits", "natural"), ("sprites-location", "structured"), ("sprites-orientation", "structured"))
        for seed in (0, 1)
        if (method, dataset) != ("linear", "digits")
    ]
    rows += [make_row("vpt", "mine", 0, 40.0, suite="custom"), make_row("linear", "mine", 0, 30.0, suite="custom")]
    table = table_of(*rows, paper="vpbench")
    (section,) = table.sections
    assert [column.name for column in section.columns][:2] == ["custom, mean of 1", "mini, mean of 3"]
    found = dict(zip(labels_of(section), (row.cells[:2] for row in section.rows)))
    assert found["vpt"][1].text == "61.0 ± 1.4 (2)"
    assert found["linear"][1] == Cell()
    assert [found[name][0].rank for name in ("vpt", "linear")] == [1, 2]


def test_two_protocols_of_a_suite_are_two_columns() -> None:
    rows = [make_row("vpt", "x", suite="custom"), make_row("vpt", "x", suite="custom", recipe={"epochs": 100}, acc1=90)]
    (section,) = table_of(*rows, paper="vpbench").sections
    assert [column.name for column in section.columns][:2] == [
        "custom, mean of 1, 12 epochs", "custom, mean of 1, 100 epochs"
    ]  # fmt: skip
    assert [cell.mean for cell in section.rows[0].cells[:2]] == [80, 90]


def test_an_unfinished_suite_has_no_mean_and_says_why() -> None:
    (section,) = table_of(make_row(), paper="vpbench").sections
    assert section.rows[0].cells[0] == Cell()
    assert "No mean: of mini's data sets sprites-location, sprites-orientation have no run here." in section.notes


def test_means_have_the_deviation_of_the_seeds_means() -> None:
    """Seeds 0 and 1 give means of 80 and 82 although the data sets' scores swing by 20."""
    scores = {("digits", 0): 70.0, ("flowers", 0): 90.0, ("digits", 1): 92.0, ("flowers", 1): 72.0}
    rows = [make_row("vpt", dataset, seed, acc1) for (dataset, seed), acc1 in scores.items()]
    (section,) = table_of(*rows).sections
    mean = section.rows[0].cells[2]
    assert (mean.mean, mean.n, mean.text) == (81, 2, "81.0 ± 1.4")
    (section,) = table_of(*rows[:-1]).sections
    assert (section.rows[0].cells[2].text, section.rows[0].cells[2].n) == ("85.5", None)


def test_data_sets_that_a_suite_has_no_more_are_still_shown() -> None:
    (section,) = table_of(make_row(suite="vtab1k"), make_row("vpt", "flowers", suite="vtab1k")).sections
    assert [column.name for column in section.columns][:3] == ["digits", "flowers", "Mean"]


# A large store


@pytest.fixture
def copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setattr(reading, "WORTH_A_COPY", 2)
    return fill(tmp_path, *grid())


def test_the_copy_gives_the_same_rows(copied: Store) -> None:
    whole = with_scores(copied.load())
    for _ in range(2):
        pd.testing.assert_frame_equal(load_rows(copied), whole)
    assert (copied.folder / "_cache" / "rows.arrow").exists()
    assert len(pd.read_parquet(copied.folder)) == len(whole)


def test_the_copy_follows_new_changed_and_deleted_files(copied: Store) -> None:
    load_rows(copied)
    row = make_row("viapt")
    path = copied.write_row(row)
    assert len(load_rows(copied)) == len(grid()) + 1
    copied.write_row({**row, "acc1": 12.5})
    os.utime(path, ns=(1, 1))
    assert load_rows(copied).set_index("run_id").loc[row["run_id"], "acc1"] == 12.5
    path.unlink()
    pd.testing.assert_frame_equal(load_rows(copied), with_scores(copied.load()))


def test_a_broken_copy_is_made_anew(copied: Store) -> None:
    load_rows(copied)
    (copied.folder / "_cache" / "rows.arrow").write_bytes(b"broken")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pd.testing.assert_frame_equal(load_rows(copied), with_scores(copied.load()))


def test_a_folder_that_cannot_be_written_is_read(copied: Store) -> None:
    (copied.folder / "_cache").write_text("a file where the folder would be", encoding="utf-8")
    assert len(load_rows(copied)) == len(grid())


def test_no_folder_and_an_empty_one(tmp_path: Path) -> None:
    assert load_rows(Store(tmp_path / "none")).columns.tolist() == SCHEMA.names
    assert load_rows(Store(tmp_path)).empty


PUBLISHED = Path(__file__).resolve().parents[2] / "results" / "published"


def test_published_rows_are_all_shown(tmp_path: Path) -> None:
    """``vpbench report --results results/published`` in a fresh clone: every run of every study, and a page."""
    rows = Store(PUBLISHED).load()
    shown = rows[(rows["status"] == "ok") & ~rows["stage"].isin(("search", "shift"))]
    text = str(make_report(1, results=PUBLISHED))
    assert f"Runs: {len(shown)}, made by" in text
    assert all(name in text for name in (*shown["backbone"].unique(), *shown["dataset"].unique()))
    write_page(PUBLISHED, tmp_path / "page", suite="mini-seg", figures=False)
    assert {path.stem for path in (tmp_path / "page" / "runs").iterdir()} == set(shown[shown["suite"] == "mini-seg"]["run_id"])
