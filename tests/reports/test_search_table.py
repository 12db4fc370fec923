"""``vpbench report --table search``: what was selected, what lies on the border of a grid, and what was lost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from plot_rows import trials
from report_rows import fill, make_row

from vpbench.core.errors import StoreError, UsageError
from vpbench.reporting.frame import Filters
from vpbench.reporting.make_report import make_report
from vpbench.reporting.search_table import search_table
from vpbench.reporting.trials import place_of_best
from vpbench.search.study import Trial, winner

RATES = (0.0005, 0.002, 0.008)


def grid(method: str, dataset: str, scores: tuple[float | None, ...]) -> list[dict[str, Any]]:
    """A trial per learning rate with its validation accuracy; None for one that failed."""
    search = {"space": "rates", "sampler": "grid", "trials": 3, "searched": ["recipe.lr"]}
    rows = []
    for place, (lr, score) in enumerate(zip(RATES, scores, strict=True)):
        row = make_row(
            method, dataset, recipe={"lr": lr}, minutes=place, acc1=None, stage="search", search=json.dumps(search), lr=lr
        )
        rows.append(row | ({"status": "diverged"} if score is None else {"status": "ok", "val_acc1": score}))
    return rows


def cells(folder: Path, **filters: Any) -> dict[str, dict[str, str]]:
    (section,) = json.loads(str(make_report("search", results=folder, format="json", **filters)))["sections"]
    names = [column["name"] for column in section["columns"]]
    return {
        row["label"]: {name: " ".join([cell["text"], *cell["notes"]]) for name, cell in zip(names, row["cells"], strict=True)}
        for row in section["rows"]
    }


def test_selected_values_and_borders(tmp_path: Path) -> None:
    rows = [
        *grid("linear", "digits", (40.0, 50.0, 60.0)),
        *grid("linear", "flowers", (70.0, 80.0, 60.0)),
        *grid("vpt", "digits", (30.0, 30.0, None)),
    ]
    store = fill(tmp_path, *rows, make_row("vpt"))
    found = cells(store.folder)
    assert found["linear"] == {
        "digits": "0.008 border", "flowers": "0.002", "On the border": "1 of 2", "Below the best": "10.0", "Not finished": "0",
    }  # fmt: skip
    # A tie goes to the smaller rate. Two values that ended make no border.
    assert found["vpt"] == {
        "digits": "0.0005", "flowers": "-", "On the border": "0 of 1", "Below the best": "0.0", "Not finished": "1",
    }  # fmt: skip
    assert cells(store.folder, method="linear", dataset="flowers").keys() == {"linear"}


def test_a_method_without_a_finished_trial(tmp_path: Path) -> None:
    found = cells(fill(tmp_path, *grid("vpt", "digits", (None, None, None))).folder)
    assert found["vpt"] == {"digits": "-", "On the border": "0 of 1", "Below the best": "-", "Not finished": "3"}


def test_several_settings_and_a_sampler(tmp_path: Path) -> None:
    found = cells(fill(tmp_path, *trials()).folder)
    assert found["vpt"] == {
        "digits": "lr=0.01, prompt_length=10", "On the border": "0 of 1", "Below the best": "1.5", "Not finished": "2",
    }  # fmt: skip


def test_options_that_differ_make_rows(tmp_path: Path) -> None:
    long = [
        make_row(
            "vpt", recipe={"lr": row["lr"]}, options={"prompt_length": 50}, acc1=None, stage="search", search=row["search"],
            minutes=10, lr=row["lr"],
        ) | {"status": "ok", "val_acc1": 10.0}
        for row in grid("vpt", "digits", (1.0, 2.0, 3.0))
    ]  # fmt: skip
    found = cells(fill(tmp_path, *grid("vpt", "digits", (1.0, 3.0, 2.0)), *long).folder)
    assert {label: row["digits"] for label, row in found.items()} == {"vpt": "0.002", "vpt (prompt_length=50)": "0.0005 border"}


def test_what_cannot_be_compared_is_apart(tmp_path: Path) -> None:
    """Two backbones, and two searches of one space."""
    small, large = grid("vpt", "digits", (1.0, 3.0, 2.0)), grid("vpt", "digits", (9.0, 2.0, 3.0))
    large = [
        make_row(
            "vpt", recipe={"lr": row["lr"]}, minutes=5, acc1=None, backbone="vit-b16-in21k", stage="search", search=row["search"],
            lr=row["lr"],
        ) | {"status": "ok", "val_acc1": row["val_acc1"]}
        for row in large
    ]  # fmt: skip
    sections = json.loads(str(make_report("search", results=fill(tmp_path, *small, *large).folder, format="json")))["sections"]
    chosen = {section["title"]: section["rows"][0]["cells"][0]["text"] for section in sections}
    assert sorted(chosen.values()) == ["0.0005", "0.002"]
    assert all("rates (grid, 3 trials): lr" in title for title in chosen)


def test_without_trials(tmp_path: Path) -> None:
    store = fill(tmp_path, make_row("vpt"))
    with pytest.raises(StoreError, match=r"no trial of a search in .*Make some: vpbench tune"):
        search_table(store, Filters())
    with pytest.raises(UsageError, match="Did you mean 'linear'"):
        search_table(fill(tmp_path / "b", *grid("linear", "digits", (1.0, 2.0, 3.0))), Filters(method=("lniear",)))


def test_reports_select_the_trial_that_the_search_does() -> None:
    points = [(90, 0.01, 0.0), (90, 0.001, 0.1), (90, 0.001, 0.0), (80, 0.0001, 0.0)]
    rows = [
        {"status": "ok", "val_correct": right, "val_score": right / 2, "lr": lr, "weight_decay": decay}
        for right, lr, decay in points
    ]
    best = winner([Trial.of(number, {}, row) for number, row in enumerate(rows)])
    assert best and best.number == place_of_best(pd.DataFrame(rows)) == 2
