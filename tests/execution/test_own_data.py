"""What is known of a user's own images when they are opened: a dry run shows it, and rows, pages and tables keep it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from local_runs import BARE, Notes, jobs_of, planned, run_job

from vpbench.api import plan_request
from vpbench.cli.dry_run import data_lines
from vpbench.core.errors import DataError
from vpbench.deploy.model_card import _measured
from vpbench.execution.callbacks import Callback
from vpbench.execution.execute_plan import make_jobs
from vpbench.execution.opened_data import OpenedData
from vpbench.execution.run_job import prepare_data
from vpbench.planning.plan import make_plan
from vpbench.reporting.build_table import build_table
from vpbench.reporting.comparisons import compare
from vpbench.reporting.definition import load_definition
from vpbench.reporting.describe_run import describe_run, for_readers
from vpbench.reporting.frame import Filters, load_rows
from vpbench.reporting.notes import seen_in_training
from vpbench.reporting.rank_table import statistics_table
from vpbench.search.search_plan import plan_search
from vpbench.spec.budget import Budget
from vpbench.spec.request import Request
from vpbench.store.store import Store

pytestmark = pytest.mark.usefixtures("quick")


def request(images: Path, **more: Any) -> Request:
    common = {"methods": ("linear",), "image_size": 32, "epochs": 1, "device": "cpu", "precision": "fp32"}
    return Request(**{**common, "data": str(images), **more})


# --- a dry run


def test_a_dry_run_meets_the_unreadable_images_of_the_run(images: Path, store: Store) -> None:
    cut, empty, page = (images / place for place in ("train/c0/0.png", "val/c1/1.png", "test/c1/2.png"))
    cut.write_bytes(cut.read_bytes()[:200])
    empty.write_bytes(b"")
    page.write_text("<html>not found</html>")
    (job,) = jobs_of(images, store)
    with pytest.raises(DataError) as of_run:
        prepare_data(job, store, OpenedData(), Callback())
    with pytest.raises(DataError) as of_plan:
        make_plan(request(images), store, without_data=True)
    assert str(of_plan.value) == str(of_run.value)
    assert all(str(file) in str(of_plan.value) for file in (cut, empty, page))
    assert "--skip-unreadable leaves them out" in str(of_plan.value)
    left = make_plan(request(images, skip_unreadable=True), store, without_data=True)
    assert [len(split) for split in left.data["noise"].splits.values()] == [5, 5, 5]


def test_a_dry_run_of_a_search_meets_them_too(images: Path) -> None:
    pytest.importorskip("optuna")
    (images / "test/c0/0.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"test/c0/0\.png cannot be read as an image"):
        plan_search(request(images, epochs=None), Budget(space="vpt-grid"), without_data=True)


def test_a_dry_run_shows_classes_and_splits(images: Path, store: Store) -> None:
    plan = planned(images, store)
    assert data_lines(plan.data, {"noise"}) == ["data noise: 2 classes ('c0', 'c1'); images: 6 train, 6 val, 6 test"]
    assert data_lines(plan.data, ()) == []


def test_a_batch_larger_than_the_training_images_is_noted(images: Path, store: Store) -> None:
    words = "recipe.batch_size is 100, and noise has 6 training images: an epoch is a single step; choose a smaller one."
    notes = Notes()
    plan = plan_request(request(images, settings={"recipe.batch_size": 100}, seeds=2), BARE, store.folder, notes)
    assert [note for note in notes.notes if "batch_size" in note] == [f"warning: {words}"]
    job, _ = make_jobs(plan, store, BARE)
    assert run_job(job, store)["error"] == words
    usual = planned(images, store)  # its suite has batches of more than these six, too, and nobody has chosen that here
    assert usual.runs[0].spec.recipe.batch_size > 6 and usual.runs[0].warning == ""


# --- what rows keep


def test_shared_and_left_out_images_stay_with_the_row(images: Path, store: Store) -> None:
    """The row has them, what is shown of a run, and what stands below a table; the run's identity has nothing of it."""
    shutil.copy(images / "train/c0/0.png", images / "test/c0/1.png")
    shutil.copy(images / "val/c0/0.png", images / "test/c0/2.png")
    plain = planned(images, store).runs[0].spec.run_id
    (images / "holdout").mkdir()
    shutil.copy(images / "train/c1/0.png", images / "holdout")
    (job,) = jobs_of(images, store)
    assert job.run_id == plain
    row = run_job(job, store)
    shared = "Also in train: 1 of 6 test images. Also in val: 1 of 6 test images."
    assert (row["status"], row["error"]) == (
        "ok", f"{shared} Ignored: folder 'holdout' with 1 image, which is no split.",
    )  # fmt: skip
    shown = for_readers(describe_run(job.run_id, store.folder))["run"]
    assert shown["warning"] == row["error"] and "error" not in shown
    footer = build_table(load_rows(store), load_definition("vpbench", "1")).footer
    assert [line for line in footer if "Also in" in line] == [f"Not all test images of noise are new to its models: {shared}"]


def test_every_table_of_scores_has_the_footnote(tmp_path: Path) -> None:
    said = "Also in val: 2 of 9 test images."
    rows = [
        {
            "run_id": f"{method} {dataset} {seed}", "status": "ok", "error": said if dataset == "pets" else "", "method": method,
            "dataset": dataset, "acc1": 50.0 + seed, "score": 50.0 + seed, "seed": seed, "method_config": "{}", "recipe": "{}",
        }
        for method in ("linear", "vpt") for dataset in ("pets", "birds") for seed in (1, 2)
    ]  # fmt: skip
    store = Store(tmp_path / "runs")
    for row in rows:
        store.write_row({**row, "metric": "acc1", "task": "classification"})
    runs, note = load_rows(store), f"Not all test images of pets are new to its models: {said}"
    tables = (
        build_table(runs, load_definition("vpbench", "1")),
        compare(store, runs, [("linear", "vpt")], Filters(), mix=True),
        statistics_table(runs, load_definition("vpbench", "1"), Filters()),
    )
    assert [table.footer.count(note) for table in tables] == [1, 1, 1]
    assert seen_in_training(runs[runs["dataset"] == "birds"]) == []
    assert _measured({"error": f"warning: odd. {said}"}) == [f"| of the test images | {said} |"]  # a model card, too


def test_images_left_out_on_request_stay_with_the_row(images: Path, store: Store) -> None:
    (images / "train/c0/0.png").write_bytes(b"")
    plan = make_plan(request(images, skip_unreadable=True), store)
    (job,) = make_jobs(plan, store, BARE)
    assert run_job(job, store)["error"] == "Left out, as they cannot be read: 1 image (train/c0/0.png)."


def test_clean_images_leave_no_footnote(images: Path, store: Store) -> None:
    (job,) = jobs_of(images, store)
    assert run_job(job, store)["error"] == ""
    assert "new to its models" not in " ".join(build_table(load_rows(store), load_definition("vpbench", "1")).footer)
