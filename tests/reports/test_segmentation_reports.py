"""Reports of segmentations: iVPT's Table 7, general tables beside classification, paired tests, and the figure of masks."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from report_rows import clusters, fill, frame_of, make_row, save_features

from vpbench.core.errors import StoreError
from vpbench.reporting.build_table import build_table
from vpbench.reporting.comparisons import compare
from vpbench.reporting.definition import leaderboard, load_definition
from vpbench.reporting.figures import sections
from vpbench.reporting.formats import RENDERERS
from vpbench.reporting.frame import Filters, arrange, load_rows, sections_in
from vpbench.reporting.make_report import make_report
from vpbench.reporting.published import with_reported
from vpbench.reporting.rank_table import statistics_table
from vpbench.reports.plots import segmentation, tsne
from vpbench.store.store import Store

IMAGES, CLASSES = 40, 3


def row(method: str, score: float, dataset: str = "sprites-shapes", **columns: Any) -> dict[str, Any]:
    about = {"task": "segmentation", "metric": "miou", "suite": "mini-seg", "dataset_group": "structured"}
    return make_row(method, dataset, acc1=None, **{**about, "score": score, "miou": score, **columns}) | {"status": "ok"}


def counts(right: float) -> dict[str, Any]:
    """Arrays as a run saves them, the same label maps in all."""
    generator = np.random.default_rng(0)
    labelled = generator.integers(20, 90, (IMAGES, CLASSES))
    shared = np.round(labelled * np.clip(right + 0.1 * generator.standard_normal((IMAGES, CLASSES)), 0, 1)).astype(np.int64)
    wrong = labelled - shared
    return {"intersection": shared, "labelled": labelled, "predicted": shared + np.roll(wrong, 1, axis=1)}


def saved(store: Store, run: dict[str, Any], **arrays: Any) -> None:
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    store.write_artefact(run["run_id"], "predictions.npz", lambda path: path.write_bytes(stream.getvalue()))


def test_table_7_from_the_store() -> None:
    on = {
        "dataset": "ade20k", "suite": "ade20k", "backbone": "vit-l16-in21k", "weights": "hub", "image_size": 512,
        "dataset_group": "segmentation",
    }  # fmt: skip
    ivpt = {"structure": "cdc", "da": True, "ar": "none"}
    rows = [
        row("linear", 35.5, miou_ms=37.5, params_trainable=13_143_640, **on),
        row("vpt", 42.0, options={"deep": True, "prompt_length": 10}, params_trainable=13_389_400, **on),
        row("ivpt:cdc-da", 43.0, options={**ivpt, "prompt_length": 10}, **on),
        row("ivpt:cdc-da", 44.9, options={**ivpt, "prompt_length": 100}, **on),
    ]
    definition = load_definition("ivpt", "7")
    table = with_reported(build_table(frame_of(*rows), definition), definition, "ivpt")
    (section,) = table.sections
    shown = {str(line.key.line): [cell.text for cell in line.cells] for line in section.rows if not isinstance(line.key, str)}
    assert table.title == "Segmentation of ADE20K, mIoU (%)"
    assert shown["Linear probing"] == ["35.50", "37.50", "13.14", "35.12", "37.46", "13.18", "+0.38", "+0.04", "-0.04"]
    assert shown["VPT, N = 10"][0] == "42.00" and shown["VPT, N = 10"][3:6] == ["42.11", "44.06", "13.43"]
    assert shown["iVPT, N = 100"][0] == "44.90" and shown["iVPT, N = 100"][3:6] == ["44.77", "45.84", "15.87"]
    assert shown["Bias"][0] == "-" and shown["Bias"][3] == "43.40"
    assert any("13.14 M" in line for line in table.footer)


def test_scales_that_were_tested_later(tmp_path: Path) -> None:
    on = {"dataset": "ade20k", "suite": "ade20k", "backbone": "vit-l16-in21k", "weights": "hub", "image_size": 512}
    runs = [row("linear", 35.5, **on), row("bias", 43.0, miou_ms=45.0, **on), row("ivpt", 44.0, **on)]
    store = fill(tmp_path, *runs)
    for run, scales in zip(runs, ([0.5, 0.75, 1.0, 1.25, 1.5, 1.75], [0.5, 1.0], [0.5, 1.0])):
        found = {"scales": scales, "miou_ms": 37.5, "macc_ms": 50.0, "aacc_ms": 60.0}
        store.write_artefact(run["run_id"], "scales.json", lambda path, found=found: path.write_text(json.dumps(found)))
    text = str(make_report(7, paper="ivpt", results=store.folder))
    assert "37.50" in text and "45.00" in text and text.count("37.50") == 1


def test_general_tables_show_both_tasks_apart(tmp_path: Path) -> None:
    rows = [make_row("linear"), make_row("vpt", acc1=85.0), row("linear", 70.0), row("vpt", 84.0)]
    runs = load_rows(fill(tmp_path, *rows), ("score",))
    assert runs["score"].notna().all()
    assert [key.task for key in sections_in(arrange(runs))] == [None, "segmentation"]
    for definition in (leaderboard(), load_definition("vpbench", "1")):
        table = build_table(load_rows(Store(tmp_path)), definition)
        assert "top-1 accuracy or mIoU" in table.title
        text = RENDERERS["md"](table)
        assert "84.0" in text and "score: mIoU" in text
    only = build_table(load_rows(fill(tmp_path / "masks", row("linear", 70.0))), leaderboard())
    assert only.title == "All methods, mIoU (%)"


def test_paired_test_of_segmentations(tmp_path: Path) -> None:
    runs = [row("linear", 60.0), row("vpt", 80.0)]
    store = fill(tmp_path, *runs)
    for run, right in zip(runs, (0.6, 0.8)):
        saved(store, run, **counts(right))
    table = compare(store, load_rows(store, ("score",)), [("vpt", "linear")], Filters())
    (section,) = table.sections
    first, second, difference, interval, p, _, seeds, images = (cell.text for cell in section.rows[0].cells)
    assert (first, second, difference, seeds, images) == ("80.0", "60.0", "+20.0", "1", str(IMAGES))
    assert interval.startswith("+") and p == "< 0.001"
    assert any("points of mIoU" in line for line in table.footer) and any("no mean over images" in line for line in table.footer)
    assert statistics_table(load_rows(store, ("score",)), leaderboard(), Filters()).sections


def truth() -> segmentation.Truth:
    mask = np.zeros((12, 16), np.uint8)
    mask[3:9, 2:8], mask[0] = 2, 255
    pixels = np.stack([mask * 40] * 3, axis=-1)
    return segmentation.Truth([pixels] * 2, [mask] * 2, ("background", "square", "heart"))


def labels_of(figure: Figure) -> list[str]:
    return [ax.get_xlabel() for ax in figure.axes]


def test_figure_of_masks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = [row("linear", 60.0), row("vpt", 80.0), make_row("vpt")]
    store, known = fill(tmp_path, *runs), truth()
    guess = np.zeros((12, 16), np.uint8)
    saved(store, runs[0], **counts(0.6), image_0=guess, image_1=guess)
    saved(store, runs[1], **counts(0.8), image_0=np.where(known.masks[0] == 255, 1, known.masks[0]), image_1=guess)
    monkeypatch.setattr(segmentation, "_truth", lambda run, count: known)
    ((name, figure),) = segmentation.draw(store, load_rows(store), Filters())
    assert name.startswith("segmentation_vit-nano_") and name.endswith("_sprites-shapes_seed0")
    titles = [ax.get_title() for ax in figure.axes[:4]]
    assert titles == ["image", "label map", "linear\nmIoU 60.0 %", "vpt\nmIoU 80.0 %"]
    share = 100 * (1 - 36 / (11 * 16))
    assert labels_of(figure)[2:4] == [f"{share:.1f} %", "100.0 %"]
    legend = figure.legends[0]
    assert [text.get_text() for text in legend.get_texts()] == ["background", "square", "heart"]
    assert "White: ignored." in legend.get_title().get_text()


def test_no_masks_to_show(tmp_path: Path) -> None:
    store = fill(tmp_path, row("linear", 60.0), make_row("vpt"))
    with pytest.raises(StoreError, match="Make some: vpbench run --suite mini-seg --save predictions --results "):
        list(segmentation.draw(store, load_rows(store), Filters()))


@pytest.mark.parametrize("count", [4, 21, 150])
def test_classes_have_colours_of_their_own(count: int) -> None:
    colours = segmentation.class_colours(count)
    assert colours.shape == (count, 3) and len(np.unique(colours.round(4), axis=0)) == count
    assert (segmentation.coloured(np.array([[0, 255]], np.uint8), colours)[0, 1] == 1).all()


def test_features_of_patches_by_class(tmp_path: Path) -> None:
    runs = [row("linear", 60.0), row("vpt", 80.0), make_row("vpt")]
    store = fill(tmp_path, *runs)
    features, labels = clusters(CLASSES, 8, 6, 0.5)
    images = np.arange(len(labels)) // CLASSES
    for run in runs:
        save_features(store, run["run_id"], features, labels, images)
    drawn = dict(tsne.draw(store, load_rows(store), Filters(dataset=("sprites-shapes",))))
    assert list(drawn) == ["tsne_vit-nano_sprites-shapes_seed0"]
    (figure,) = drawn.values()
    assert [ax.get_title().split(",")[0] for ax in figure.axes if ax.get_visible()] == ["linear\nmIoU 60.0 %", "vpt\nmIoU 80.0 %"]
    caption = " ".join(figure.legends[0].get_title().get_text().split())
    assert "t-SNE of 24 patches of 8 test images, one for each class in an image" in caption and "MIoU" not in caption


def test_axes_name_the_score() -> None:
    found = {section.key.task: section.score for section in sections(frame_of(make_row("vpt"), row("vpt", 70.0)), Filters())}
    assert found == {None: "top-1 accuracy (%)", "segmentation": "mIoU (%)"}


def test_frames_without_score_columns() -> None:
    plain = frame_of(make_row("vpt", acc1=81.0)).drop(columns=["task", "metric", "score", "val_score"])
    assert arrange(plain)["score"].tolist() == [81.0]
