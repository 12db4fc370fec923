"""Confusion, trials, curves, hyper-parameters, seeds, heat maps and noise."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from plot_rows import save_curve, save_predictions, save_text, section_of, trials
from report_rows import fill, make_row

from vpbench.core.errors import StoreError, UsageError
from vpbench.reporting.figures import sections
from vpbench.reporting.frame import Filters
from vpbench.reports.plots import confusion, curves, heatmap, hyperparameters, noise, pareto, seeds, sensitivity
from vpbench.reports.plots import trials as trials_plot

# Confusion and trials


def test_predictions_that_do_not_fit_their_run(tmp_path: Path) -> None:
    row = make_row("vpt", classes=3)
    store = fill(tmp_path, row)
    save_predictions(store, row["run_id"], [0, 1], [0, 7])
    with pytest.raises(StoreError, match="of more than its 3 classes"):
        list(confusion.draw(store, store.load(), Filters()))


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


def test_sensitivity_by_hand(tmp_path: Path) -> None:
    """Of four whole trials, with the best of the other setting at each value; the pruned one is not counted."""
    store = fill(tmp_path, *trials(), make_row("vpt"))
    found = dict(sensitivity.draw(store, store.load(), Filters()))
    (rate,), (length,) = ([found[stem] for stem in found if name in stem] for name in ("recipe.lr", "prompt_length"))
    assert rate.axes[0].get_title() == "vpt 1.3"
    assert rate.axes[0].lines[0].get_xydata().tolist() == [[0.001, -3], [0.01, 0], [0.1, -1]]
    assert length.axes[0].lines[0].get_xydata().tolist() == [[5, -2], [10, 0]]
    assert [text.get_text() for text in rate.legends[0].get_texts()] == ["digits"]


def test_words_have_no_sensitivity(tmp_path: Path) -> None:
    row = {**trials()[0], "search": json.dumps({"space": "mine", "trials": 1, "searched": ["recipe.lr"]})}
    store = fill(tmp_path, row)
    with pytest.raises(StoreError, match="several numbers of one setting"):
        list(sensitivity.draw(store, store.load(), Filters()))


def test_a_cost_that_was_not_measured_says_so(tmp_path: Path) -> None:
    store = fill(tmp_path, make_row("linear"), make_row("vpt"))
    ((_, figure),) = pareto.draw(store, store.load(), Filters())
    texts = [[text.get_text() for text in ax.texts] for ax in figure.axes]
    assert texts == [[], [], ["not measured"], ["not measured"]]


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


def test_curves_of_many_methods_have_a_panel_each(tmp_path: Path) -> None:
    rows = [make_row(f"method_{place}") for place in range(13)]
    store = fill(tmp_path, *rows)
    for place, row in enumerate(rows):
        save_curve(store, row["run_id"], [3.0, 1.0, 0.1 * (place + 1)])
    ((_, figure),) = curves.draw(store, store.load(), Filters())
    shown = [ax for ax in figure.axes if ax.get_visible()]
    assert sorted(ax.get_title() for ax in shown) == sorted(row["method"] for row in rows)
    for ax in shown:
        (own,) = [line for line in ax.lines if line.get_color() != "0.88"]
        assert own.get_ydata()[-1] == pytest.approx(0.1 * (int(ax.get_title().removeprefix("method_")) + 1))
        assert len(ax.lines) == 13


@pytest.mark.parametrize(("losses", "scale"), [([3.3, 3.2, 3.1], "linear"), ([3.3, 1.0, 0.1], "log")])
def test_losses_that_are_nearly_equal_have_a_linear_axis(tmp_path: Path, losses: list[float], scale: str) -> None:
    row = make_row("vpt")
    store = fill(tmp_path, row)
    save_curve(store, row["run_id"], losses)
    ((_, figure),) = curves.draw(store, store.load(), Filters())
    assert figure.axes[0].get_yscale() == scale
    assert len(figure.axes[0].get_yticks()) > 2


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


def test_no_axis_of_seeds_goes_beyond_100(tmp_path: Path) -> None:
    store = fill(tmp_path, make_row("vpt", acc1=100.0), make_row("linear", acc1=60.0))
    ((_, figure),) = seeds.draw(store, store.load(), Filters())
    assert figure.axes[0].get_xlim()[1] <= 101


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
