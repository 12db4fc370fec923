"""Pareto fronts and critical differences."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure
from plot_rows import COSTS, section_of
from report_rows import fill, grid, make_row

from vpbench.core.errors import StoreError, UsageError
from vpbench.core.user_warning import VpbenchWarning
from vpbench.measure.cost_file import COLUMNS, write_costs
from vpbench.models.registry import working_methods
from vpbench.reporting.figures import _thin_out_labels, sections
from vpbench.reporting.frame import Filters
from vpbench.reporting.make_report import make_report
from vpbench.reporting.measured_costs import ALIKE, with_costs
from vpbench.reporting.row_labels import row_label
from vpbench.reporting.statistics import friedman
from vpbench.reporting.styles import deviation_bars
from vpbench.reports.plots import critical_difference as cd
from vpbench.reports.plots import pareto

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
    """And have no Pareto front, which parameters and operations have."""
    cheap, dear = ({name: factor * cost for name, cost in COSTS.items()} for factor in (1, 2))
    for other, with_front in (("a", 4), ("b", 2)):
        rows = [make_row("linear", device_name="a", threads=1, acc1=70, **cheap)]
        rows.append(make_row("vpt", device_name=other, threads=1, acc1=80, params_method=10**6, **dear))
        store = fill(tmp_path / other, *rows)
        ((_, figure),) = pareto.draw(store, store.load(), Filters())
        caption = " ".join(figure.legends[0].get_title().get_text().split())
        assert ("2 kinds of machine, are not comparable and have no front." in caption) == (other == "b")
        fronts = [
            line for ax in figure.axes for line in ax.lines if line.get_drawstyle() == "steps-post" and len(line.get_xdata()) > 1
        ]
        assert len(fronts) == with_front


def test_costs_of_a_file_take_the_place_of_those_of_runs(tmp_path: Path) -> None:
    rows = [
        make_row("linear", device_name="a", **COSTS), make_row("vpt", device_name="b", acc1=80, **COSTS),
        make_row("vpt", acc1=82, options={"prompt_length": 50}, minutes=1, **COSTS),
    ]  # fmt: skip
    store, path = fill(tmp_path / "runs", *rows), tmp_path / "costs.parquet"
    fixed = {
        "status": "ok", "backbone": "vit-nano", "image_size": 48, "precision": "fp32", "device_name": "a CPU", "threads": 1,
        "mem_train_peak": 3 * 2**20,
    }  # fmt: skip
    measured = [{**fixed, "method": row["method"], "method_config": row["method_config"], "train_ratio": 2.5} for row in rows[:2]]
    write_costs([{name: row.get(name) for name in COLUMNS} for row in measured], path)
    runs = with_costs(store.load(), path)
    ((_, figure),) = pareto.draw(store, runs, Filters())
    assert [ax.get_xlabel() for ax in figure.axes][2:] == [pareto.STEP.title, "peak memory in training (MiB)"]
    caption = " ".join(figure.legends[0].get_title().get_text().split())
    assert "measured on a CPU, threads: 1. Not measured: vpt (prompt_length=50)." in caption and "not comparable" not in caption
    (section,) = sections(runs, Filters())
    by_label = {row_label(point.row): point.costs for point in pareto.points_of(section, pareto.panels_of(runs))}
    assert by_label["vpt"]["train_ratio"] == 2.5 and by_label["linear"]["mem_train_peak"] == 3
    assert not {"train_ratio", "mem_train_peak"} & by_label["vpt (prompt_length=50)"].keys()
    assert [path.suffix for path in make_report(plot="pareto", results=store.folder, costs=path, out=tmp_path)] == [
        ".png",
        ".pdf",
    ]
    with pytest.raises(UsageError, match="has no method of these runs with their options"):
        with_costs(fill(tmp_path / "b", make_row("insvp")).load(), path)
    with pytest.raises(UsageError, match="--costs goes with --table methods, and with figures of costs"):
        make_report(plot="heatmap", results=store.folder, costs=path)


def test_costs_of_another_backbone_than_the_chosen_runs(tmp_path: Path) -> None:
    """Runs that the filters leave out do not count; beside others a line names what has no costs."""
    rows = [make_row("vpt"), make_row("vpt", suite="photos-mini", backbone="vit-tiny-augreg", image_size=64)]
    store, path = fill(tmp_path / "runs", *rows), tmp_path / "costs.parquet"
    columns = {"status": "ok", "train_ratio": 2.5, **{name: rows[0][name] for name in (*ALIKE, "method_config")}}
    write_costs([{name: columns.get(name) for name in COLUMNS}], path)
    places = "The file is of vit-nano at 48 px in fp32; the runs are of vit-tiny-augreg at 64 px in fp32."
    with pytest.raises(UsageError, match=places):
        make_report(plot="pareto", results=store.folder, suite="photos-mini", costs=path, out=tmp_path)
    with pytest.warns(VpbenchWarning, match="has nothing for runs of vit-tiny-augreg at 64 px in fp32: their figures"):
        assert sorted(with_costs(store.load(), path)["train_ratio"].dropna()) == [2.5]


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


def test_a_front_of_noise_has_no_line(tmp_path: Path) -> None:
    """Costs count to three digits, as tables print them."""
    costs = [{"params_trainable": 10, "flops_forward": 10, "latency_ms_p50": 1.0, "mem_train_peak": int(1133.6 * 2**20)}]
    costs.append({**costs[0], "mem_train_peak": int(1133.7 * 2**20)})
    store = fill(tmp_path, make_row("linear", acc1=50, **costs[0]), make_row("vpt", acc1=60, **costs[1]))
    ((_, figure),) = pareto.draw(store, store.load(), Filters())
    assert not any(len(each.get_xdata()) > 1 and each.get_color() == "0.55" for ax in figure.axes for each in ax.lines)
    assert "inside one another" not in figure.legends[0].get_title().get_text()


def test_labels_of_ticks_do_not_touch() -> None:
    figure = Figure(figsize=(3, 2))
    ax = figure.subplots()
    ax.set_xticks(range(40), [f"a long label {place}" for place in range(40)])
    figure.draw_without_rendering()
    _thin_out_labels(figure)
    shown = [label.get_window_extent() for label in ax.get_xticklabels() if label.get_visible()]
    assert 1 <= len(shown) < 5
    assert all(one.x1 < other.x0 for one, other in pairwise(shown))


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
    assert cd._bar([1.0, 1.5, 2.5, 2.8], 1, 2, 0.5) == pytest.approx([1.5 - 0.5 / 3, 2.5 + 0.1])  # to no rank outside
    assert cd._bar([1.0, 1.5], 0, 1, 0.5) == [0.5, 2.0]
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


def test_ranks_of_many_methods_are_numbered_by_fives(tmp_path: Path) -> None:
    names = [name for name, _ in working_methods()][:18]
    rows = [make_row(name, f"d{i}", acc1=90 - 2 * place - i % 2) for place, name in enumerate(names) for i in range(8)]
    store = fill(tmp_path, *rows)
    ((_, figure),) = cd.draw(store, store.load(), Filters())
    ticks = [text.get_text() for text in figure.axes[0].texts if text.get_text().isdigit()]
    assert ticks == ["1", "5", "10", "15"]
