"""Figures of rows: files, missing data, and styles that stay."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from plot_rows import COSTS, save_curve, save_predictions, save_text, section_of, trials
from report_rows import fill, grid, make_row
from sweeps import case, some

from vpbench.core.errors import StoreError, UsageError
from vpbench.reporting.frame import Filters
from vpbench.reporting.keys import RowKey
from vpbench.reporting.make_report import make_report
from vpbench.reporting.plot_registry import plot_registry
from vpbench.reporting.styles import method_styles, row_styles, row_wise
from vpbench.store.store import Store


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Three methods, three data sets, two seeds, a sweep; with curves and noise."""
    rows = [{**row, **COSTS} for row in grid()]
    rows += [
        make_row(method, data, acc1=50.0 + n, **COSTS) for n, method in enumerate(("linear", "vpt", "insvp")) for data in "ab"
    ]
    rows += [make_row("vpt", "digits", 0, 60.0 + n, options={"prompt_length": n}, minutes=n, **COSTS) for n in (1, 5)]
    store = fill(tmp_path_factory.mktemp("full"), *rows)
    for row in rows:
        save_curve(store, row["run_id"], [2.0, 1.0, 0.5])
        save_predictions(store, row["run_id"], [0, 0, 1, 1, 2], [0, 1, 1, 1, 0])
        save_text(store, row["run_id"], "noise.csv", f"sigma,acc1,correct,total\n0.0,{row['acc1']},40,50\n0.2,30.0,15,50\n")
    for row in trials():
        store.write_row(row)
    return store


NAMES = (
    "pareto", "curves", "hyperparameters", "seeds", "heatmap", "critical-difference", "noise", "confusion", "trials",
    "sensitivity",
)  # fmt: skip
SOME = ("pareto", "critical-difference")


@pytest.mark.parametrize("name", [case(name, always=SOME) for name in NAMES])
def test_png_and_pdf(full: Store, tmp_path: Path, name: str) -> None:
    only = {"dataset": "digits"} if name in ("curves", "noise", "confusion") else {}
    paths = make_report(plot=name, results=full.folder, out=tmp_path, **only)
    count = 2 if name == "sensitivity" else 1  # settings that were searched
    assert [Path(path).suffix for path in paths] == [".png", ".pdf"] * count
    with Image.open(paths[0]) as picture:
        assert 500 < picture.width < 1500
        assert 250 < picture.height < 1500
        assert len(np.unique(np.asarray(picture.convert("L")))) > 10


@pytest.mark.sweep
@pytest.mark.parametrize("name", [case(name, always={"pareto"}) for name in NAMES])
def test_the_same_bytes_every_time(full: Store, tmp_path: Path, name: str) -> None:
    only = {"dataset": "digits"} if name in ("curves", "noise", "confusion") else {}
    first, again = (
        [Path(path).read_bytes() for path in make_report(plot=name, results=full.folder, out=tmp_path / turn, **only)]
        for turn in ("first", "again")
    )
    assert first == again


@pytest.mark.sweep
def test_rows_and_a_page_need_no_torch(full: Store, tmp_path: Path) -> None:
    code = f"""
import sys
from vpbench.reporting.page import write_page
from vpbench.reporting.frame import Filters
from vpbench.reporting.plot_registry import plot_registry
from vpbench.store.store import Store
store = Store({str(full.folder)!r})
for name in ("pareto", "trials"):
    assert list(plot_registry().get(name.replace("-", "_")).draw(store, store.load(), Filters()))
write_page({str(full.folder)!r}, {str(tmp_path / "page")!r}, figures=False)
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, cwd=Path(__file__).parents[2])


@pytest.mark.parametrize(
    ("name", "command"),
    some(
        [
            ("curves", "--save curve"),
            ("hyperparameters", "--set vpt.prompt_length=50"),
            ("heatmap", "--methods linear,vpt"),
            ("critical_difference", "--methods linear,vpt,insvp --suite vtab1k"),
            ("confusion", "--save predictions"),
            ("trials", "vpbench tune --methods vpt"),
            ("noise", "--save weights --noise 0,0.1,0.2"),
            ("prompts", "--save weights"),
            ("attention", "--save weights"),
            ("gradcam", "--save weights"),
            ("tsne_prompts", "--save weights"),
        ],
        4,
    ),
)
def test_what_is_missing_is_one_line_with_a_command(tmp_path: Path, name: str, command: str) -> None:
    store = fill(tmp_path, make_row("vpt"))
    with pytest.raises(StoreError) as refusal:
        make_report(plot=name, results=store.folder, out=tmp_path / "figures")
    assert command in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert not (tmp_path / "figures").exists()


@pytest.mark.sweep
def test_only_failures(tmp_path: Path) -> None:
    """Every figure says what it misses; none stumbles."""
    store = fill(tmp_path, make_row("vpt", acc1=None))
    for name, draw in ((name, plot_registry().get(name).draw) for name in plot_registry().names()):
        with pytest.raises(StoreError, match=r"accuracy|vpbench run|run them again|vpbench tune"):
            list(draw(store, store.load(), Filters()))
            pytest.fail(f"{name} was drawn")


def test_unknown_figure_is_suggested(full: Store) -> None:
    with pytest.raises(UsageError, match="Did you mean 'critical-difference'"):
        make_report(plot="critical-diference", results=full.folder)


# Looks


def test_a_method_looks_the_same_whatever_the_store_and_the_filter(tmp_path: Path) -> None:
    few = row_styles(fill(tmp_path / "a", make_row("ivpt"), make_row("linear")).load())
    variant = make_row("vpt", options={"prompt_length": 50}, minutes=1)
    many = row_styles(fill(tmp_path / "b", *grid(), make_row("ivpt"), make_row("zebra"), make_row("aardvark"), variant).load())
    assert {row: many[row] for row in few} == few
    assert len({(row_style.colour, row_style.marker) for row_style in many.values()}) == len(many)
    vpt, changed = RowKey("vpt"), RowKey("vpt", options=(("prompt_length", "50"),))
    assert many[changed].colour == many[vpt].colour
    assert not many[changed].filled


def test_fifty_methods_look_different_and_keep_their_look() -> None:
    """A method's style depends on the store only where its name selects a pair that another one has."""
    names = [f"method{number}" for number in range(50)]
    found = method_styles(names)
    assert len({found[name] for name in names}) == 50
    assert len(set(found.values())) == len(found)
    # What six methods had when there were no others: their figures stay comparable.
    assert {name: found[name] for name in ("linear", "vpt", "e2vpt", "insvp", "viapt", "ivpt")} == {
        "linear": ("#6e6e6e", "s"), "vpt": ("#0173b2", "o"), "e2vpt": ("#56b4e9", "D"),
        "insvp": ("#d55e00", "^"), "viapt": ("#029e73", "v"), "ivpt": ("#cc78bc", "P"),
    }  # fmt: skip
    alone = [method_styles([name])[name] for name in names]
    assert sum(own == found[name] for own, name in zip(alone, names)) >= 35


def test_a_plot_is_a_module_or_a_function(full: Store) -> None:
    """What an entry point of another distribution names is a plot like a file of reports/plots."""

    def draw(store: Store, runs: Any, filters: Filters) -> Any:
        """Points on a line.

        More of it.
        """

    own = plot_registry()._pick("mine", draw)
    assert (own.title, own.overview, own.draw) == ("Points on a line.", False, draw)
    assert plot_registry().get("pareto").overview
    with pytest.raises(UsageError, match="has no function 'draw'"):
        plot_registry()._pick("broken", json)


def test_rows_and_data_sets_follow_the_tables(tmp_path: Path) -> None:
    section = section_of(tmp_path, *grid(), make_row("zebra", "digits"), make_row("insvp:released", "digits"))
    assert [row.name for row in section.rows] == ["linear", "vpt", "insvp", "insvp:released", "zebra"]
    assert section.datasets == ["digits", "flowers", "sprites_location"]


def test_legends_read_row_by_row() -> None:
    assert row_wise([1, 2, 3, 4, 5], 3) == [1, 4, 2, 5, 3]  # type: ignore[list-item,comparison-overlap]
