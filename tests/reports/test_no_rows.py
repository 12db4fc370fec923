"""What reports say when a folder has no row of their kind: why, and what adds some."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.reports.report_rows import fill, make_row
from vpbench.core.errors import StoreError
from vpbench.reporting.make_report import make_report
from vpbench.reporting.page import write_page

RUN = make_row()
TRIAL = make_row(stage="search", acc1=None, val_acc1=90.0)
ELSEWHERE = make_row(stage="shift")
MASKS = make_row(task="segmentation", metric="miou", acc1=None, score=40.0, miou=40.0)


@pytest.mark.parametrize(
    ("rows", "asked", "said"),
    [
        ([RUN], {"table": "shift", "paper": "vpbench"}, r"none of the 1 run in .* tested on other data.*--test-on.*--wise-ft"),
        ([], {"table": "shift", "paper": "vpbench"}, r"no runs in .*vpbench run "),
        ([TRIAL], {}, r"holds 1 trial of a search.*Repeat the vpbench tune command"),
        ([TRIAL], {"plot": "seeds"}, r"holds 1 trial of a search"),
        ([ELSEWHERE], {}, r"holds 1 row of models tested on other data.*--table shift"),
        ([RUN], {"plot": "trials"}, r"no trial of a search .*vpbench tune"),
        ([], {"plot": "trials"}, r"no trial of a search .*vpbench tune"),
        ([RUN], {"plot": "segmentation"}, r"no predicted masks .*--suite mini-seg --save predictions --results "),
        ([RUN], {"table": "scores"}, r"--save predictions,probabilities, or with --corruptions all"),
        ([MASKS], {"table": "scores"}, r"shows one class for each image, and all runs here are of segmentation"),
        ([MASKS], {"plot": "confusion"}, r"shows one class for each image, and all runs here are of segmentation"),
        ([MASKS], {"plot": "reliability"}, r"shows one class for each image, and all runs here are of segmentation"),
    ],
)
def test_each_report_names_what_adds_its_rows(
    rows: list[dict[str, Any]], asked: dict[str, Any], said: str, tmp_path: Path
) -> None:
    (tmp_path / "fr").mkdir()
    with pytest.raises(StoreError, match=said):
        make_report(results=fill(tmp_path / "fr", *rows).folder, **asked)


def test_trials_are_drawn_without_any_run(tmp_path: Path) -> None:
    """As a search that was interrupted leaves them."""
    store = fill(tmp_path / "fr", TRIAL)
    assert make_report(plot="trials", results=store.folder, out=tmp_path / "figures") == []


@pytest.mark.parametrize("asked", [{}, {"plot": "seeds"}, {"plot": "trials"}, {"table": "shift", "paper": "vpbench"}])
def test_a_folder_that_is_not_there(asked: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"there is no results folder .*gone; --results chooses another one"):
        make_report(results=tmp_path / "gone", **asked)
    with pytest.raises(StoreError, match=r"there is no results folder .*gone"):
        write_page(tmp_path / "gone", tmp_path / "page")


def test_one_scale_alone_is_said_with_the_option_for_several(tmp_path: Path) -> None:
    one = make_row("linear", "ade20k", suite="ade20k", task="segmentation", acc1=None, score=40.0, miou=40.0)
    said = "No run here has a score of several scales: repeat the command that made it with --scales 0.5,0.75,1,1.25,1.5,1.75."
    several = {**one, "miou_ms": 41.0}
    found = [str(make_report(7, paper="ivpt", results=fill(tmp_path / n, row).folder)) for n, row in zip("ab", (one, several))]
    assert [said in text for text in found] == [True, False]
