"""Figures that need rows, and at most learning curves or tables of noise: what they show, and when they refuse."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import warnings
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from report_rows import fill, grid, make_row
from sweeps import case, some

from vpbench.core.errors import StoreError, UsageError
from vpbench.reporting.figures import SectionRuns, _thin_out_labels, sections
from vpbench.reporting.frame import Filters
from vpbench.reporting.keys import RowKey
from vpbench.reporting.looks import deviation_bars, looks, method_looks, row_wise
from vpbench.reporting.make_report import make_report
from vpbench.reporting.plot_registry import plot_registry
from vpbench.reporting.statistics import friedman
from vpbench.reports.plots import confusion, curves, heatmap, hyperparameters, noise, pareto, seeds
from vpbench.reports.plots import critical_difference as cd
from vpbench.reports.plots import trials as trials_plot
from vpbench.store.store import Store

COSTS = {"latency_ms_p50": 5.0, "mem_train_peak": 2**30}


def section_of(folder: Path, *rows: dict[str, Any]) -> SectionRuns:
    (section,) = sections(fill(folder, *rows).load(), Filters())
    return section


def save_text(store: Store, run_id: str, name: str, text: str) -> None:
    store.write_artefact(run_id, name, lambda path: path.write_text(text, encoding="utf-8"))


def save_curve(store: Store, run_id: str, losses: list[float], accuracies: list[float] | None = None, phases: int = 1) -> None:
    lines = ["phase,epoch,epochs,lr,train_loss,val_acc1"]
    for phase in range(phases):
        for epoch, loss in enumerate(losses):
            accuracy = accuracies[epoch] if accuracies else ""
            lines.append(f"phase{phase},{epoch + 1},{len(losses)},0.1,{loss},{accuracy}")
    save_text(store, run_id, "curve.csv", "\n".join(lines) + "\n")


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


def save_predictions(store: Store, run_id: str, labels: list[int], guesses: list[int], **more: Any) -> None:
    ranked = np.array([guesses, labels]).T
    with io.BytesIO() as stream:
        np.savez(stream, labels=np.array(labels), ranked=ranked, **more)
        content = stream.getvalue()
    store.write_artefact(run_id, "predictions.npz", lambda path: path.write_bytes(content))


def trials() -> list[dict[str, Any]]:
    """Of a search over two settings: four whole trainings, a pruned one and one that failed."""
    search = {"space": "adamw", "sampler": "tpe", "trials": 6, "searched": ["recipe.lr", "prompt_length"]}
    about = {"stage": "search", "search": json.dumps(search)}
    found = [
        make_row("vpt", recipe={"lr": lr}, options={"prompt_length": n}, minutes=place, acc1=None, **about)
        | {"status": "ok", "val_acc1": 60.0 + place}
        for place, (lr, n) in enumerate([(0.001, 5), (0.01, 5), (0.1, 10), (0.01, 10)])
    ]
    pruned = make_row("vpt", recipe={"lr": 0.5, "epochs": 3}, acc1=None, **about) | {"status": "ok", "val_acc1": 99.0}
    return [*found, pruned, make_row("vpt", recipe={"lr": 1.0}, acc1=None, **about)]


NAMES = ("pareto", "curves", "hyperparameters", "seeds", "heatmap", "critical-difference", "noise", "confusion", "trials")
SOME = ("pareto", "curves", "critical-difference", "trials")


@pytest.mark.parametrize("name", [case(name, always=SOME) for name in NAMES])
def test_png_and_pdf(full: Store, tmp_path: Path, name: str) -> None:
    only = {"dataset": "digits"} if name in ("curves", "noise", "confusion") else {}
    paths = make_report(plot=name, results=full.folder, out=tmp_path, **only)
    assert [Path(path).suffix for path in paths] == [".png", ".pdf"]
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
    few = looks(fill(tmp_path / "a", make_row("ivpt"), make_row("linear")).load())
    variant = make_row("vpt", options={"prompt_length": 50}, minutes=1)
    many = looks(fill(tmp_path / "b", *grid(), make_row("ivpt"), make_row("zebra"), make_row("aardvark"), variant).load())
    assert {row: many[row] for row in few} == few
    assert len({(look.colour, look.marker) for look in many.values()}) == len(many)
    vpt, changed = RowKey("vpt"), RowKey("vpt", options=(("prompt_length", "50"),))
    assert many[changed].colour == many[vpt].colour
    assert not many[changed].filled


def test_fifty_methods_look_different_and_keep_their_look() -> None:
    """A method's look depends on the store only where its name selects a pair that another one has."""
    names = [f"method{number}" for number in range(50)]
    found = method_looks(names)
    assert len({found[name] for name in names}) == 50
    assert len(set(found.values())) == len(found)
    # What six methods had when there were no others: their figures stay comparable.
    assert {name: found[name] for name in ("linear", "vpt", "e2vpt", "insvp", "viapt", "ivpt")} == {
        "linear": ("#6e6e6e", "s"), "vpt": ("#0173b2", "o"), "e2vpt": ("#56b4e9", "D"),
        "insvp": ("#d55e00", "^"), "viapt": ("#029e73", "v"), "ivpt": ("#cc78bc", "P"),
    }  # fmt: skip
    alone = [method_looks([name])[name] for name in names]
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


# Pareto front


def test_pareto_front_by_hand() -> None:
    costs, scores = [1, 2, 3, 3, 4, 2], [10, 30, 20, 40, 40, 25]
    assert pareto.pareto_front(costs, scores) == [0, 1, 3]
    assert pareto.pareto_front([1, 1], [5, 5]) == [0, 1]
    assert pareto.pareto_front([], []) == []


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=12))
@settings(deadline=None, max_examples=50)
def test_every_point_outside_the_front_is_beaten_by_one_on_it(points: list[tuple[int, int]]) -> None:
    costs, scores = [cost for cost, _ in points], [score for _, score in points]
    front = pareto.pareto_front(costs, scores)
    on = [points[place] for place in front]
    assert [cost for cost, _ in on] == sorted(cost for cost, _ in on)
    for place, (cost, score) in enumerate(points):
        beaten = any(c <= cost and s >= score and (c, s) != (cost, score) for c, s in on)
        assert beaten == (place not in front)


def test_costs_are_means_in_the_panel_s_unit_and_incomplete_methods_are_named(tmp_path: Path) -> None:
    rows = [{**row, **COSTS} for row in grid()] + [make_row("ivpt", "digits", **COSTS)]
    store = fill(tmp_path, *rows)
    ((stem, figure),) = pareto.draw(store, store.load(), Filters())
    assert stem == "pareto_vit-nano"
    assert "Without a number on every data set: ivpt." in " ".join(figure.legends[0].get_title().get_text().split())
    (section,) = sections(store.load(), Filters())
    by_row = {point.row.name: point for point in pareto.points_of(section)}
    assert list(by_row) == ["linear", "vpt", "insvp"]
    # 80 + 0, 3, 6 on the three data sets, and 0.4 more with seed 1.
    assert by_row["vpt"].accuracy == pytest.approx(83.2)
    assert by_row["vpt"].deviation == pytest.approx(0.4 / 2**0.5)
    assert by_row["linear"].costs == pytest.approx(
        {"params_trainable": 192 * (10 + 16 + 12) / 3 / 1e3, "flops_forward": 0.25, "latency_ms_p50": 5, "mem_train_peak": 1024}
    )


def test_costs_of_different_machines_are_said_to_be_different(tmp_path: Path) -> None:
    rows = [make_row("linear", device_name="a", threads=1, **COSTS), make_row("vpt", device_name="b", threads=1, **COSTS)]
    store = fill(tmp_path, *rows)
    ((_, figure),) = pareto.draw(store, store.load(), Filters())
    assert "2 kinds of machine" in " ".join(figure.legends[0].get_title().get_text().split())


def test_equal_costs_are_all_seen_and_bars_end_at_100(tmp_path: Path) -> None:
    rows = [make_row(m, seed=s, acc1=99 + s, **COSTS) for m in ("vpt", "insvp") for s in (0, 1)]
    store = fill(tmp_path, *rows, make_row("linear", acc1=50))
    ((_, figure),) = pareto.draw(store, store.load(), Filters())
    sizes = [line.get_markersize() for line in figure.axes[0].lines if line.get_marker() in ("o", "^", "s")]
    assert sorted(sizes) == [6, 6, 10]
    for bars in (bars for ax in figure.axes for bars in ax.collections):
        assert max(high for _, high in (segment[:, 1] for segment in bars.get_segments())) <= 100
    assert deviation_bars([99.5, 0.5, 50], [0.7, 0.7, None]) == [[0.7, 0.5, 0], [0.5, 0.7, 0]]


@pytest.mark.sweep
def test_a_front_of_one_point_has_no_line_and_no_caption_of_one(tmp_path: Path) -> None:
    for name, rows, line in (("a", [make_row("linear")], False), ("b", [make_row("linear", acc1=50), make_row("vpt")], True)):
        store = fill(tmp_path / name, *rows)
        ((_, figure),) = pareto.draw(store, store.load(), Filters())
        assert ("Grey line" in figure.legends[0].get_title().get_text()) == line
        assert any(len(each.get_xdata()) > 1 and each.get_color() == "0.55" for ax in figure.axes for each in ax.lines) == line


def test_labels_of_ticks_do_not_touch() -> None:
    figure = Figure(figsize=(3, 2))
    ax = figure.subplots()
    ax.set_xticks(range(40), [f"a long label {place}" for place in range(40)])
    figure.draw_without_rendering()
    _thin_out_labels(figure)
    shown = [label.get_window_extent() for label in ax.get_xticklabels() if label.get_visible()]
    assert 1 <= len(shown) < 5
    assert all(one.x1 < other.x0 for one, other in pairwise(shown))


# Confusion and trials


def test_confusion_counts_all_seeds_by_class_and_guess(tmp_path: Path) -> None:
    rows = [make_row("vpt", seed=seed, classes=3) for seed in (0, 1)]
    store = fill(tmp_path, *rows, make_row("linear", classes=3))
    save_predictions(store, rows[0]["run_id"], [0, 0, 1, 2], [0, 1, 1, 1], class_names=np.array(["cat", "dog", "cow"]))
    save_predictions(store, rows[1]["run_id"], [0, 0, 1, 2], [0, 0, 1, 2], class_names=np.array(["cat", "dog", "cow"]))
    (section,) = sections(store.load(), Filters())
    counts, names = confusion.counts_of(store, section.runs)
    assert {row.name: own.tolist() for row, own in counts.items()} == {"vpt": [[3, 1, 0], [0, 2, 0], [0, 1, 1]]}
    assert names == ("cat", "dog", "cow")
    assert confusion.most_confused(counts, 2) == [0, 2]
    ((stem, figure),) = confusion.draw(store, store.load(), Filters())
    assert stem == "confusion_vit-nano_digits"
    assert {text.get_text() for text in figure.axes[0].texts} == {"75", "25", "100", "50"}
    assert "No predictions stored: linear." in " ".join(figure.get_supxlabel().split())
    store.artefact_path(rows[0]["run_id"], "predictions.npz").write_bytes(b"broken")
    with pytest.raises(StoreError, match=r"predictions\.npz holds no predictions"):
        list(confusion.draw(store, store.load(), Filters()))


def test_trials_show_every_value_and_the_best(tmp_path: Path) -> None:
    store = fill(tmp_path, *trials(), make_row("vpt"))
    ((stem, figure),) = trials_plot.draw(store, store.load(), Filters())
    assert stem.startswith("trials_vit-nano_digits_vpt_")
    rate, length = figure.axes
    assert (rate.get_xlabel(), length.get_xlabel()) == ("recipe.lr", "prompt_length")
    assert [list(line.get_xdata()) for line in rate.lines] == [[0.001, 0.01, 0.1, 0.01], [0.01]]
    assert list(length.lines[0].get_ydata()) == [60, 61, 62, 63]
    caption = " ".join(figure.legends[0].get_title().get_text().split())
    assert caption == "Validation images; 4 trials of adamw. Without a whole training: 2, pruned or failed."
    with pytest.raises(UsageError, match="Did you mean"):
        list(trials_plot.draw(store, store.load(), Filters(method=("vtp",))))


def test_a_cost_that_was_not_measured_says_so(tmp_path: Path) -> None:
    store = fill(tmp_path, make_row("linear"), make_row("vpt"))
    ((_, figure),) = pareto.draw(store, store.load(), Filters())
    texts = [[text.get_text() for text in ax.texts] for ax in figure.axes]
    assert texts == [[], [], ["not measured"], ["not measured"]]


# Critical difference


def test_critical_values_of_the_published_table() -> None:
    """Demšar 2006, table 5(a): q_0.05 and q_0.10 for 2 to 10 classifiers."""
    published = {2: 1.960, 3: 2.343, 4: 2.569, 5: 2.728, 6: 2.850, 7: 2.949, 8: 3.031, 9: 3.102, 10: 3.164}
    assert {k: round(cd.critical_value(k), 3) for k in published} == pytest.approx(published, abs=0.0011)
    assert cd.critical_value(5, 0.10) == pytest.approx(2.459, abs=0.0011)


def test_critical_difference_of_the_published_example() -> None:
    """Demšar 2006, section 3.2.4: four classifiers on 14 data sets, CD 1.25 at 0.05."""
    assert cd.critical_difference(4, 14) == pytest.approx(1.25, abs=0.005)


def test_ranks_and_bars_by_hand(tmp_path: Path) -> None:
    rows = [make_row(method, dataset, acc1=acc1) for method, scores in {
        "linear": (10, 10, 10), "vpt": (20, 30, 20), "insvp": (30, 30, 30)
    }.items() for dataset, acc1 in zip(("digits", "flowers", "sprites_location"), scores)]  # fmt: skip
    scores = cd.complete_scores(section_of(tmp_path, *rows))
    ranks = {row.name: rank for row, rank in friedman(pd.concat([scores] * 2)).ranks.items()}
    assert ranks == pytest.approx({"linear": 3, "vpt": 11 / 6, "insvp": 7 / 6})
    assert cd.cliques([1.0, 1.5, 2.5, 4.0], 1.2) == [(0, 1), (1, 2)]
    assert cd.cliques([1.0, 2.0, 3.0], 5) == [(0, 2)]
    assert cd.cliques([1.0, 3.0], 1) == []


def test_fewest_data_sets_are_those_where_a_difference_can_show() -> None:
    for methods in (3, 4, 6, 10, 20):
        fewest = cd.fewest_data_sets(methods)
        assert cd.critical_difference(methods, fewest) < methods - 1 <= cd.critical_difference(methods, fewest - 1)


def test_too_few_methods_or_data_sets(tmp_path: Path) -> None:
    for name, keep, message in (("a", 2, "needs 3 methods .* here are 2"), ("b", 3, "needs 5 data sets .* here are 4")):
        rows = [make_row(m, d) for m in ("linear", "vpt", "insvp")[:keep] for d in ("digits", "flowers", "a", "b")]
        store = fill(tmp_path / name, *rows)
        with pytest.raises(StoreError, match=message):
            list(cd.draw(store, store.load(), Filters()))


def test_figure_and_statistics_refuse_the_same(tmp_path: Path) -> None:
    store = fill(tmp_path, *(make_row(m, d) for m in ("linear", "vpt", "insvp") for d in ("digits", "flowers", "a")))
    with pytest.raises(StoreError, match="Friedman's test needs 5 data sets that every method has, and here are 3"):
        list(cd.draw(store, store.load(), Filters()))
    table = str(make_report(results=tmp_path, statistics=True))
    assert "Friedman's test needs 5 data sets that every method has, and there are 3" in " ".join(table.split())


@pytest.mark.sweep
def test_equal_ranks_are_all_seen(tmp_path: Path) -> None:
    rows = [make_row(m, d, acc1=acc1) for m, acc1 in (("linear", 50), ("vpt", 60), ("insvp", 60)) for d in "abcde"]
    store = fill(tmp_path, *rows)
    ((_, figure),) = cd.draw(store, store.load(), Filters())
    dots = [line for line in figure.axes[0].lines if line.get_linestyle() == "None"]
    assert [float(line.get_xdata()[0]) for line in dots] == [1.5, 1.5, 3]
    assert dots[0].get_markersize() > dots[1].get_markersize() == dots[2].get_markersize()


# Curves


def test_curves_average_over_seeds_and_break_between_phases(tmp_path: Path) -> None:
    rows = [make_row("vpt", seed=0), make_row("vpt", seed=1), make_row("insvp"), make_row("linear")]
    store = fill(tmp_path, *rows)
    save_curve(store, rows[0]["run_id"], [2.0, 1.0], [50, 60])
    save_curve(store, rows[1]["run_id"], [4.0, 3.0], [70, 80])
    save_curve(store, rows[2]["run_id"], [1.5, 0.5], phases=2)
    ((stem, figure),) = curves.draw(store, store.load(), Filters())
    assert stem == "curves_vit-nano_digits"
    losses, validation = figure.axes
    lines = [(list(line.get_xdata()), list(line.get_ydata())) for line in losses.lines]
    assert lines == [([1, 2], [3, 2]), ([1, 2], [1.5, 0.5]), ([3, 4], [1.5, 0.5])]
    assert list(validation.lines[0].get_ydata()) == [60, 70]
    caption = " ".join(figure.legends[0].get_title().get_text().split())
    assert "insvp trains in 2 phases" in caption
    assert "No curve stored: linear." in caption


@pytest.mark.parametrize("text", ["", "epoch,loss\n1,2\n"])
def test_a_broken_curve_is_named(tmp_path: Path, text: str) -> None:
    row = make_row()
    store = fill(tmp_path, row)
    save_text(store, row["run_id"], "curve.csv", text)
    with pytest.raises(StoreError, match=r"curve\.csv.*--save curve"):
        list(curves.draw(store, store.load(), Filters()))


# Hyper-parameters


def test_a_sweep_holds_everything_else_equal(tmp_path: Path) -> None:
    rows = [
        make_row("vpt", seed=seed, acc1=30 + length + seed, options={"prompt_length": length}, minutes=length)
        for length in (5, 10, 50) for seed in (0, 1)
    ]  # fmt: skip
    rows.append(make_row("vpt", acc1=1.0, options={"prompt_length": 100, "deep": False}, minutes=60))  # two options differ
    (sweep,) = hyperparameters.sweeps_of(section_of(tmp_path, *rows), "vpt")
    assert (sweep.option, sweep.tied) == ("prompt_length", "")
    line = sweep.lines["digits"]
    assert line["value"].tolist() == [5, 10, 50]
    assert line["mean"].tolist() == [35.5, 40.5, 80.5]
    assert line["n"].tolist() == [2, 2, 2]


def test_two_weights_with_one_sum_are_one_option(tmp_path: Path) -> None:
    rows = [
        make_row("insvp", acc1=70 + 10 * beta, options={"global_weight": beta, "local_weight": round(1 - beta, 2)})
        for beta in (0.1, 0.5, 0.7)
    ]
    (sweep,) = hyperparameters.sweeps_of(section_of(tmp_path, *rows), "insvp")
    assert sweep.title == "global_weight\n(local_weight = 1 - global_weight)"
    assert sweep.lines["digits"]["value"].tolist() == [0.1, 0.5, 0.7]


def test_counts_with_one_sum_are_no_weights(tmp_path: Path) -> None:
    rows = [make_row("ivpt", options={"prompt_length": n, "ar_k": 30 - n}, minutes=n) for n in (10, 20)]
    assert hyperparameters.sweeps_of(section_of(tmp_path, *rows), "ivpt") == []


def test_words_and_recipes_are_options_too(tmp_path: Path) -> None:
    rows = [make_row("ivpt", options={"structure": name}, minutes=i) for i, name in enumerate(("cdc", "vpt"))]
    rows.append(make_row("ivpt", options={"structure": "cdc"}, recipe={"lr": 0.5}, minutes=9))
    store = fill(tmp_path, *rows)
    ((stem, figure),) = hyperparameters.draw(store, store.load(), Filters())
    assert stem == "hyperparameters_vit-nano_ivpt"
    assert [ax.get_xlabel() for ax in figure.axes] == ["recipe.lr", "structure"]
    assert [label.get_text() for label in figure.axes[1].get_xticklabels()] == ["cdc", "vpt"]


# Seeds, heat map, noise


def test_every_seed_is_a_dot_of_its_row(tmp_path: Path) -> None:
    rows = [make_row("linear", seed=seed, acc1=60 + seed) for seed in range(3)] + [make_row("vpt", acc1=80)]
    store = fill(tmp_path, *rows, make_row("vpt", seed=1, acc1=None))
    ((_, figure),) = seeds.draw(store, store.load(), Filters())
    (ax,) = figure.axes
    assert [label.get_text() for label in ax.get_yticklabels()] == ["linear", "vpt"]
    dots = [list(line.get_xdata()) for line in ax.lines if line.get_linestyle() == "None"]
    assert dots == [[60, 61, 62], [80]]


def test_gains_over_linear_probing(tmp_path: Path) -> None:
    rows = [make_row("linear", seed=0, acc1=60), make_row("linear", seed=1, acc1=62), make_row("vpt", acc1=71)]
    rows += [make_row("vpt", "flowers", acc1=50), make_row("linear", "sprites_location", acc1=50)]
    gains = heatmap.gains_of(section_of(tmp_path, *rows)).rename(index=lambda row: row.name)
    assert json.loads(gains.to_json()) == {"digits": {"vpt": 10}, "flowers": {"vpt": None}, "sprites_location": {"vpt": None}}


@pytest.mark.sweep
def test_long_names_leave_room_for_the_heat_map(tmp_path: Path) -> None:
    """Names of 120 letters lose their middles; the panel keeps its size and every label is on the figure."""
    name = "photographs-of-" + "very-" * 20 + "rare-birds"
    assert len(name) >= 120
    usual = fill(tmp_path / "usual", make_row("linear", acc1=60), make_row("vpt", acc1=70))
    long = fill(
        tmp_path / "long",
        *(make_row(method, data, acc1=60) for method in ("linear", "vpt") for data in (name, f"{name}-2")),
        make_row(f"vpt:{'p' * 120}", name, acc1=70),
    )
    heights = []
    for store in (usual, long):
        ((_, figure),) = heatmap.draw(store, store.load(), Filters())
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # of a layout that has no room for its panels
            FigureCanvasAgg(figure).draw()
        ax, whole = figure.axes[0], figure.bbox
        heights.append(ax.get_window_extent().height)
        for label in (*ax.get_xticklabels(), *ax.get_yticklabels()):
            box = label.get_window_extent()
            assert whole.x0 <= box.x0 and box.x1 <= whole.x1 and whole.y0 <= box.y0 and box.y1 <= whole.y1
        assert figure.get_figwidth() < 12
    assert heights[1] > 0.9 * heights[0]
    texts = [label.get_text() for label in figure.axes[0].get_xticklabels()]
    assert all(len(text) == 40 and "…" in text for text in texts) and texts[1].endswith("rare-birds-2")


def test_noise_shows_what_all_seeds_have(tmp_path: Path) -> None:
    rows = [make_row("vpt", seed=0), make_row("vpt", seed=1), make_row("linear")]
    store = fill(tmp_path, *rows)
    save_text(store, rows[0]["run_id"], "noise.csv", "sigma,acc1,correct,total\n0,80,40,50\n0.1,60,30,50\n0.2,40,20,50\n")
    save_text(store, rows[1]["run_id"], "noise.csv", "sigma,acc1,correct,total\n0,84,42,50\n0.1,64,32,50\n")
    ((stem, figure),) = noise.draw(store, store.load(), Filters())
    assert stem == "noise_vit-nano_digits"
    line = figure.axes[0].lines[0]
    assert list(line.get_xdata()) == [0, 0.1]
    assert list(line.get_ydata()) == [82, 62]
    assert "Not evaluated: linear." in figure.legends[0].get_title().get_text().replace("\n", " ")
    save_text(store, rows[1]["run_id"], "noise.csv", "what\n1\n")
    with pytest.raises(StoreError, match=r"noise\.csv is no table"):
        list(noise.draw(store, store.load(), Filters()))
