"""Heads, losses, gradients, windows, scales and metrics of semantic segmentation are those of the released code."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from setr_golden import (
    check_gradients,
    check_tensor,
    dense_model,
    golden_labels,
    maps_of,
    named_logits,
    total_norm,
)

from golden_fill import filled, golden_cases, images, load_golden
from vpbench.backbones.positions import resampled
from vpbench.spec.run_spec import PosResample
from vpbench.tasks.segmentation.confusion import ConfusionMatrix
from vpbench.tasks.segmentation.dense_loss import pixel_cross_entropy, resized_logits, weighted_loss
from vpbench.tasks.segmentation.multi_scale import multi_scale_probabilities, resized_image, resized_labels, size_at
from vpbench.tasks.segmentation.sliding_window import sliding_logits, whole_logits, window_spans


@pytest.mark.parametrize("case", golden_cases("setr"))
def test_case(case: str) -> None:
    golden = load_golden("setr")
    config, expected = golden["config"], golden["cases"][case]
    model, head = dense_model(case, config)
    labels = golden_labels(config)
    maps = maps_of(model, head, images(config))
    for found, each in zip(maps, expected.get("features", [])):
        check_tensor(found, each)
    if "neck" in expected:
        for found, each in zip(head.neck(maps), expected["neck"], strict=True):  # type: ignore[operator]
            check_tensor(found, each)
    outputs = head.training_logits(maps)
    for name, weight, logits in named_logits(head, outputs):
        size = tuple(expected["logits"][name]["shape"][-2:])  # Zheng's auxiliary heads end at the image's
        check_tensor(resized_logits(logits, size) if name.startswith("aux") else logits, expected["logits"][name])
        assert (weight * pixel_cross_entropy(logits, labels)).item() == pytest.approx(expected["losses"][name], rel=1e-4)
    assert len(outputs) == len(expected["logits"])
    loss = weighted_loss(outputs, labels)
    assert loss.item() == pytest.approx(expected["loss"], rel=1e-4)
    assert weighted_loss(outputs, labels, "valid").item() == pytest.approx(expected["loss_over_valid_pixels"], rel=1e-4)
    loss.backward()
    check_gradients(model, head, expected["params"])
    assert sum(each.numel() for each in head.parameters()) == expected["head_parameters"]
    for name, each in expected.get("running_after", {}).items():
        check_tensor(head.state_dict()[name], each)
    if "trained_backbone_biases" in expected:
        trained = [each for name, each in model.scope.trained.items() if not name.startswith("norm.")]
        assert sum(each.numel() for each in trained) == expected["trained_backbone_biases"]["numbers"]
        gradients = [each.grad for each in trained if each.grad is not None]
        assert total_norm(gradients) == pytest.approx(expected["trained_backbone_biases"]["grad_l2_all"], rel=1e-4)


def test_labels() -> None:
    golden = load_golden("setr")
    labels, expected = golden_labels(golden["config"]), golden["labels"]
    assert labels[0, 0, : len(expected["first_row_of_image_0"])].tolist() == expected["first_row_of_image_0"]
    assert [(labels == k).sum().item() for k in range(len(expected["pixels_of_class"]))] == expected["pixels_of_class"]
    assert (labels == golden["config"]["ignore_index"]).sum().item() == expected["ignored"]


def predict_with(case: str, config: Any) -> Any:
    model, head = dense_model(case, config)
    return lambda windows: head.decode(maps_of(model, head, windows))


@torch.no_grad()
@pytest.mark.parametrize("name", ["slide", "slide_vpt_deep", "slide_tiles"])
def test_windows(name: str) -> None:
    golden = load_golden("setr")
    config, expected = golden["config"], golden["inference"][name]
    height, width = expected["size"]
    crop, stride = expected["crop"], expected["stride"]
    assert window_spans(height, crop, stride) == [tuple(span) for span in expected["rows"]]
    assert window_spans(width, crop, stride) == [tuple(span) for span in expected["columns"]]
    image = filled(expected["image"], (1, 3, height, width), 1.0, 0.0, config)
    predict = predict_with("vpt_deep" if name == "slide_vpt_deep" else "pup", config)
    for batch in (1, 4):
        logits = sliding_logits(predict, image, crop, stride, batch)
        check_tensor(logits, expected["logits"])
        counts = torch.bincount(logits.argmax(1).flatten(), minlength=config["classes"])
        torch.testing.assert_close(counts, torch.tensor(expected["argmax_counts"]), rtol=0, atol=4)


@torch.no_grad()
def test_whole_image() -> None:
    golden = load_golden("setr")
    config, expected = golden["config"], golden["inference"]["whole_padded"]
    image = filled(expected["image"], (1, 3, *expected["size"]), 1.0, 0.0, config)
    check_tensor(whole_logits(predict_with("pup", config), image), expected["logits"])


@torch.no_grad()
def test_multi_scale_and_flip() -> None:
    golden = load_golden("setr")
    config, expected = golden["config"], golden["inference"]["multi_scale_flip"]
    scales = [
        filled(name, (1, 3, *size), 1.0, 0.0, config) for name, size in zip(expected["images"], expected["sizes"], strict=True)
    ]
    windows = partial(sliding_logits, predict_with("pup", config), crop=expected["crop"], stride=expected["stride"])
    size = tuple(expected["output_size"])
    probabilities = multi_scale_probabilities(windows, scales, size)
    check_tensor(probabilities[0], expected["probabilities"])
    counts = torch.bincount(probabilities.argmax(1).flatten(), minlength=config["classes"])
    torch.testing.assert_close(counts, torch.tensor(expected["argmax_counts"]), rtol=0, atol=4)


@pytest.mark.parametrize("grid", ["6x6", "3x5"])
@pytest.mark.parametrize(("name", "how"), [("bilinear", "bilinear"), ("bicubic_antialias", "bicubic")])
def test_position_embeddings(grid: str, name: str, how: PosResample) -> None:
    golden = load_golden("setr")
    config, expected = golden["config"], golden["pos_embed"][grid][name]
    side = config["img"] // config["patch"]
    table = filled("pos_embed", (1, 1 + side**2, config["dim"]), 0.5, 0.0, config)
    rows, columns = (int(each) for each in grid.split("x"))
    check_tensor(resampled(table, (rows, columns), 1, how, (side, side)), expected)


def test_metrics() -> None:
    expected = load_golden("setr")["metrics"]
    matrix = ConfusionMatrix(expected["classes"])
    for predictions, labels in zip(expected["predictions"], expected["labels"], strict=True):
        matrix.add(torch.tensor(predictions), torch.tensor(labels))
    regions = matrix.regions()
    assert regions.intersection.tolist() == expected["intersection"]
    assert regions.union.tolist() == expected["union"]
    assert regions.predicted.tolist() == expected["predicted_pixels"]
    assert regions.labelled.tolist() == expected["labelled_pixels"]
    for found, name in ((regions.iou, "iou"), (regions.accuracy, "accuracy")):
        wanted = [float("nan") if each is None else 100 * each for each in expected[name]]
        assert found.tolist() == pytest.approx(wanted, abs=1e-6, nan_ok=True)
    scores = [regions.mean_iou, regions.mean_accuracy, regions.pixel_accuracy]
    assert scores == pytest.approx([100 * expected[name] for name in ("mIoU", "mAcc", "aAcc")], abs=1e-5)


def test_sizes() -> None:
    data = load_golden("setr")["data"]["resize"]
    long, short = data["base"]
    for case in data["cases"]:
        size = tuple(case["size"])
        assert list(size_at(size, case["ratio"], "mmseg", short, long)) == case["resized"]
        assert list(size_at(size, case["ratio"], "setr", short, long)) == case["resized_setr_multi_scale"]


def test_resampling() -> None:
    data = load_golden("setr")["data"]["resample"]
    image, labels = torch.tensor(data["image"]).float()[None], torch.tensor(data["labels"])
    for name in ("8x11", "3x4"):
        height, width = (int(each) for each in name.split("x"))
        expected = torch.tensor(data[name]["image_bilinear"]).float()
        torch.testing.assert_close(resized_image(image, (height, width))[0], expected, rtol=0, atol=1.0)
        assert resized_labels(labels, (height, width)).tolist() == data[name]["labels_nearest"]
