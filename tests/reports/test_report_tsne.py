"""The t-SNE figure, on synthetic features."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from report_rows import clusters, fill, make_row, save_features

from vpbench.core.errors import StoreError, UsageError
from vpbench.reporting.frame import Filters
from vpbench.reporting.keys import RowKey
from vpbench.reporting.make_report import make_report
from vpbench.reports.plots.tsne import Panel, draw, embed, knn_accuracy, side_by_side
from vpbench.store.store import Store


def store_with_features(folder: Path, *rows: dict[str, Any], **changes: Any) -> Store:
    store = fill(folder, *rows)
    for seed, row in enumerate(rows):
        features, labels = clusters(3, 8, 6, 0.5, seed)
        save_features(store, row["run_id"], changes.get("features", features), labels)
    return store


@pytest.mark.sweep
def test_figures_are_written_as_png_and_pdf(tmp_path: Path) -> None:
    rows = [make_row(method, dataset) for dataset in ("digits", "flowers") for method in ("linear", "vpt")]
    store = store_with_features(tmp_path / "runs", *rows)
    paths = make_report(plot="tsne", results=store.folder, out=tmp_path / "figures")
    stems = ["tsne_vit-nano_digits_seed0", "tsne_vit-nano_flowers_seed0"]
    assert paths == [tmp_path / "figures" / f"{stem}{suffix}" for stem in stems for suffix in (".png", ".pdf")]
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {Path(path).name for path in paths}
    first = [Path(path).read_bytes() for path in paths]
    make_report(plot="tsne", results=store.folder, out=tmp_path / "figures")
    assert first == [Path(path).read_bytes() for path in paths]


def test_sections_seeds_and_filters(tmp_path: Path) -> None:
    rows = [make_row("linear", seed=0), make_row("linear", seed=1), make_row("vpt", seed=1)]
    rows += [make_row("vpt", seed=0, recipe={"epochs": 100}), make_row("vpt", seed=0, backbone="vit-tiny")]
    store = store_with_features(tmp_path / "runs", *rows)
    figures = dict(draw(store, store.load(), Filters()))
    assert sorted(re.sub("_[0-9a-f]{6}$", "_HASH", stem) for stem in figures) == [
        "tsne_vit-nano_digits_seed0_HASH", "tsne_vit-nano_digits_seed1_HASH", "tsne_vit-tiny_digits_seed0"
    ]  # fmt: skip
    assert list(dict(draw(store, store.load(), Filters(backbone=("vit-nano",), seed=(0,), method=("linear",))))) == [
        "tsne_vit-nano_digits_seed0"
    ]


def test_panels_follow_the_table_and_name_what_is_missing(tmp_path: Path) -> None:
    rows = [make_row("vpt", acc1=81.23), make_row("linear"), make_row("vpt", options={"prompt_length": 50}, minutes=1)]
    store = store_with_features(tmp_path, *rows)
    store.write_row(make_row("insvp"))
    ((_, figure),) = draw(store, store.load(), Filters())
    titles = [ax.get_title().split("\n") for ax in figure.axes]
    assert [name for name, _ in titles] == ["linear", "vpt", "vpt (prompt_length=50)"]
    assert titles[1][1].startswith("top-1 81.2 %, kNN ")
    assert "No features stored: insvp." in " ".join(figure.legends[0].get_title().get_text().split())
    assert figure.get_suptitle().startswith("digits, seed 0: vit-nano")


def test_classes_have_their_names(tmp_path: Path) -> None:
    """Those that the run stored; numbers in files of earlier versions."""
    row = make_row("vpt")
    store = store_with_features(tmp_path, row)
    ((_, numbers),) = draw(store, store.load(), Filters())
    assert [text.get_text() for text in numbers.legends[0].get_texts()] == ["0", "1", "2"]
    with np.load(store.artefact_path(row["run_id"], "features.npz")) as arrays:
        named = {**arrays, "class_names": np.array(["rose", "tulip", "a rather long name of a flower"])}
    store.write_artefact(row["run_id"], "features.npz", lambda path: np.savez(path.open("wb"), **named))
    ((_, figure),) = draw(store, store.load(), Filters())
    assert {text.get_text() for text in figure.legends[0].get_texts()} == {"rose", "tulip", "a rather l… a flower"}


@pytest.mark.parametrize(("count", "word"), [(1, "MOTHS OF BORNEO"), (3, "location of bin"), (3, "WW"), (3, "")])
def test_a_legend_stays_inside(count: int, word: str) -> None:
    names = tuple(f"{word} {k}" for k in range(16))
    panels = [Panel(RowKey("vpt"), "run", 50.0, np.eye(16, dtype=np.float32), np.arange(16), np.arange(16), names)] * count
    figure = side_by_side(panels, "a title", [])
    figure.draw_without_rendering()
    box = figure.legends[0].get_window_extent()
    assert 0 <= box.x0 < box.x1 <= figure.bbox.width and 0 <= box.y0 < box.y1 <= figure.bbox.height


def test_neighbour_accuracy_by_hand() -> None:
    """Angles 0, 1, 2 degrees are class 0; 3, 80, 81, 82 are class 1. Length does not count."""
    angles = np.radians([0, 1, 2, 3, 80, 81, 82])
    features = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32) * np.arange(1, 8, dtype=np.float32)[:, None]
    labels = np.array([0, 0, 0, 1, 1, 1, 1])
    # One voter: 0 -> 1, 1 -> 0 or 2, 2 -> 1 or 3, 3 -> 2 (wrong), 80 -> 81, 81 -> 80 or 82, 82 -> 81.
    # Three voters: only the image at 3 degrees is outvoted, by 0, 1 and 2.
    assert knn_accuracy(features, labels, 3) == pytest.approx(100 * 6 / 7)
    # All six others vote: class 0 has 2 against 4, class 1 has 3 against 3, and the lower class wins.
    assert knn_accuracy(features, labels, 6) == 0


def test_features_that_are_all_alike_still_have_a_place() -> None:
    assert embed(np.ones((12, 4), dtype=np.float32)).tolist() == [[0, 0]] * 12


def test_other_images_are_refused_with_the_runs_named(tmp_path: Path) -> None:
    rows = [make_row("linear"), make_row("vpt"), make_row("insvp")]
    store = store_with_features(tmp_path, *rows)
    features, labels = clusters(3, 8, 6, 0.5)
    save_features(store, rows[2]["run_id"], features, labels, np.arange(24) + 1)
    with pytest.raises(StoreError, match=rf"{rows[0]['run_id']} \(linear\): {rows[2]['run_id']} \(insvp\)"):
        make_report(plot="tsne", results=store.folder, out=tmp_path / "figures")


def test_one_data_set_that_cannot_be_drawn_leaves_the_others(tmp_path: Path) -> None:
    rows = [make_row("vpt", "digits"), make_row("vpt", "flowers")]
    store = store_with_features(tmp_path, *rows)
    store.artefact_path(rows[0]["run_id"], "features.npz").write_bytes(b"damaged")
    with pytest.warns(UserWarning, match=r"no figure of digits on vit-nano: .*Run it again with --save features"):
        assert [stem for stem, _ in draw(store, store.load(), Filters())] == ["tsne_vit-nano_flowers_seed0"]


def test_no_neighbours_where_a_class_has_fewer_images_than_vote(tmp_path: Path) -> None:
    row = make_row("vpt", acc1=50.0)
    store = fill(tmp_path, row)
    save_features(store, row["run_id"], *clusters(4, 5, 6, 0.5))
    ((_, figure),) = draw(store, store.load(), Filters())
    assert figure.axes[0].get_title() == "vpt\ntop-1 50.0 %"
    assert "No kNN: a class has no more than 5 images." in " ".join(figure.legends[0].get_title().get_text().split())


def test_no_features(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="--save features"):
        make_report(plot="tsne", results=fill(tmp_path, make_row()).folder)


@pytest.mark.parametrize(("value", "message"), [(np.full((24, 6), np.nan), "NaN"), (np.zeros((24, 6)), None)])
def test_odd_features(tmp_path: Path, value: Any, message: str | None) -> None:
    store = store_with_features(tmp_path / "runs", make_row(), features=value)
    if message:
        with pytest.raises(StoreError, match=message):
            make_report(plot="tsne", results=store.folder, out=tmp_path)
    else:
        assert len(dict(draw(store, store.load(), Filters()))) == 1


def test_a_broken_or_small_file(tmp_path: Path) -> None:
    row = make_row()
    store = fill(tmp_path, row)
    store.write_artefact(row["run_id"], "features.npz", lambda path: path.write_bytes(b"broken"))
    with pytest.raises(StoreError, match="holds no features"):
        make_report(plot="tsne", results=store.folder)
    save_features(store, row["run_id"], np.eye(4), [0, 0, 1, 1])
    with pytest.raises(StoreError, match="4 test images; t-SNE needs 10"):
        make_report(plot="tsne", results=store.folder)


def test_unknown_figure_and_a_file_as_folder(tmp_path: Path) -> None:
    store = store_with_features(tmp_path / "runs", make_row())
    with pytest.raises(UsageError, match="Did you mean 'tsne'"):
        make_report(plot="tsn", results=store.folder)
    with pytest.raises(UsageError, match="need a folder"):
        make_report(plot="tsne", results=store.folder, out="figure.png")
