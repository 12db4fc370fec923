"""Heads of dense tasks: parameters, initial values, what they read, and the invariants of their losses and scores."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import timm
import torch
from sklearn.metrics import accuracy_score, jaccard_score

from golden_fill import load_golden
from vpbench.backbones.vit import ViTAdapter
from vpbench.core.errors import UnsupportedError, UsageError
from vpbench.interface import BackboneShape, Stage
from vpbench.methods.bias import Bias
from vpbench.methods.ivpt import IVPT
from vpbench.methods.linear import Linear
from vpbench.methods.vpt import VPT
from vpbench.models.prompted import PromptedModel
from vpbench.tasks.segmentation.confusion import ConfusionMatrix
from vpbench.tasks.segmentation.dense_head import (
    HeadOptions,
    enlarged,
    head_class,
    head_names,
    make_dense_head,
)
from vpbench.tasks.segmentation.dense_loss import pixel_cross_entropy
from vpbench.tasks.segmentation.multi_scale import multi_scale_probabilities, size_at
from vpbench.tasks.segmentation.setr_head import UpHead, setr_blocks
from vpbench.tasks.segmentation.sliding_window import sliding_logits, window_spans

VIT_L16 = BackboneShape(family="vit", image_size=512, patch_size=16, width=1024, depth=24, heads=16, prefix=1)
TINY = BackboneShape(family="vit", image_size=32, patch_size=8, width=24, depth=4, heads=2, prefix=1)


def staged(*grids: int) -> BackboneShape:
    stages = tuple(Stage(2 * index, 2, 16 * 2**index, 2, grid) for index, grid in enumerate(grids))
    return BackboneShape(
        family="swin", image_size=64, patch_size=4, width=16, depth=2 * len(grids), heads=2, prefix=0, stages=stages
    )


def count(module: Any) -> int:
    return sum(each.numel() for each in module.parameters())


@pytest.mark.parametrize(
    ("name", "expected", "decode"),
    [
        ("setr-pup", 13_143_640, 4_171_414),
        ("setr-pup-zheng", 13_775_086, 4_172_438),
        ("setr-naive", 1_411_160, 303_254),
        ("setr-mla", 5_422_830, 3_420_160 + 1_848_470),
        ("bn-linear", 155_798, 155_798),
        ("linear", 153_750, 153_750),
    ],
)
def test_parameters(name: str, expected: int, decode: int) -> None:
    with torch.device("meta"):
        head = make_dense_head(name, VIT_L16, 150)
        assert count(head) == expected
        assert head.inference_parameters == decode
        assert count(make_dense_head(name, VIT_L16, 150, HeadOptions(auxiliary=False))) == decode


def test_parameters_of_the_golden_file() -> None:
    found = load_golden("setr")["parameters"]
    for name, other in (("pup", "setr-pup"), ("pup_zheng", "setr-pup-zheng"), ("naive", "setr-naive"), ("mla", "setr-mla")):
        with torch.device("meta"):
            head: Any = make_dense_head(other, VIT_L16, 150)
        assert count(head) == found[name]["all"]
        assert count(head.auxiliary_head[0]) == found[name]["auxiliary_head"]


def test_differences_of_ivpt_table_7() -> None:
    """The rows share one head, which no released code has; what they add to it agrees with the printed numbers to rounding."""
    with torch.device("meta"):
        vit = timm.create_model("vit_large_patch16_224", img_size=512, num_classes=0)
    printed = {"linear": 13.18, "vpt": 13.43, "ivpt 10": 13.43, "ivpt 100": 15.87, "bias": 13.46}
    rows: dict[str, tuple[Any, dict[str, Any], int]] = {
        "linear": (Linear, {}, 0),
        "vpt": (VPT, {"prompt_length": 10}, 24 * 10 * 1024),
        "ivpt 10": (IVPT, {"prompt_length": 10, "ar": "none"}, 24 * 10 * 1024 + 23 * 10**2),
        "ivpt 100": (IVPT, {"prompt_length": 100, "ar": "none"}, 24 * 100 * 1024 + 23 * 100**2),
        "bias": (Bias, {}, 24 * 11 * 1024 + 1024 + 1024),
    }
    least, most = 0.0, float("inf")
    for name, (method, options, expected) in rows.items():
        adapter = ViTAdapter(vit)
        with torch.device("meta"):
            model = PromptedModel(adapter, method(method.Config(**options), adapter.shape, 150), 150)
        added = count(model.own) + sum(each.numel() for each in model.scope.trained.values())
        assert added == expected
        least = max(least, printed[name] - 0.005 - added / 1e6)
        most = min(most, printed[name] + 0.005 - added / 1e6)
        model.scope.undo()
    assert least < most  # one head fits all rows ...
    assert least > 13.143640  # ... and it is larger than the released one by about 40,000 numbers
    assert (least, most) == pytest.approx((13.182616, 13.1850), abs=1e-4)


@pytest.mark.parametrize(
    ("depth", "expected"), [(24, (9, 14, 19, 23)), (12, (4, 7, 9, 11)), (6, (2, 3, 4, 5)), (5, (1, 2, 3, 4))]
)
def test_blocks(depth: int, expected: tuple[int, ...]) -> None:
    shape = BackboneShape(family="vit", image_size=32, patch_size=8, width=24, depth=depth, heads=2, prefix=1)
    blocks = setr_blocks(shape, (10, 15, 20))
    assert blocks == expected or (len(set(blocks)) == 4 and blocks[-1] == depth - 1 and depth < 6)


def test_blocks_of_mla_and_stages() -> None:
    assert head_class("setr-mla").default_blocks(VIT_L16) == (5, 11, 17, 23)
    assert head_class("setr_pup").default_blocks(staged(16, 8, 4, 2)) == (1, 3, 5, 7)
    assert [(each.width, each.stride) for each in head_class("setr-pup").levels_of(staged(16, 8, 4, 2), HeadOptions())] == [
        (16, 4), (32, 8), (64, 16), (128, 32),
    ]  # fmt: skip


def test_errors() -> None:
    assert head_names() == ["bn-linear", "linear", "setr-mla", "setr-naive", "setr-pup", "setr-pup-zheng"]
    with pytest.raises(UsageError, match="setr-pup"):
        head_class("setr-pupp")
    with pytest.raises(UsageError, match=r"blocks 0 to 3, and the head is to read block 9"):
        make_dense_head("linear", TINY, 5, HeadOptions(blocks=(9,)))
    with pytest.raises(UsageError, match="reads 4 blocks, and 1 are given"):
        make_dense_head("setr-pup", TINY, 5, HeadOptions(blocks=(3,)))
    with pytest.raises(UnsupportedError, match="four blocks, and the backbone has 3"):
        make_dense_head("setr-pup", BackboneShape("vit", 32, 8, 24, 3, 2, 1), 5)
    with pytest.raises(UnsupportedError, match="maps of one size"):
        make_dense_head("setr-mla", staged(16, 8, 4, 2), 5)
    with pytest.raises(UnsupportedError, match="has 2 stages"):
        make_dense_head("setr-pup", staged(16, 8), 5)


@pytest.mark.parametrize("name", head_names())
def test_heads_end_at_the_size_of_their_kind(name: str) -> None:
    torch.manual_seed(0)
    head = make_dense_head(name, TINY, 5, HeadOptions(width=8))
    maps = [torch.randn(2, 24, 4, 4) for _ in head.blocks]
    outputs = head.training_logits(maps)
    side = {"setr-pup": 32, "setr-pup-zheng": 32, "setr-naive": 16, "setr-mla": 16}.get(name, 4)
    assert outputs[0][1].shape == (2, 5, side, side)
    assert all(logits.shape[:2] == (2, 5) for _, logits in outputs)
    assert [weight for weight, _ in outputs[1:]] == [0.4] * (len(outputs) - 1)
    sum(logits.sum() for _, logits in outputs).backward()  # type: ignore[union-attr]
    assert all(each.grad is not None for each in head.parameters())
    assert head.uses_batch_statistics == (name != "linear")


def test_heads_on_stages() -> None:
    shape = staged(16, 8, 4, 2)
    head = make_dense_head("setr-pup", shape, 5, HeadOptions(width=8))
    maps = [torch.randn(1, 16 * 2**index, grid, grid) for index, grid in enumerate((16, 8, 4, 2))]
    head.eval()
    assert {tuple(logits.shape) for _, logits in head.training_logits(maps)} == {(1, 5, 64, 64)}


def test_initial_values() -> None:
    torch.manual_seed(0)
    head: Any = make_dense_head("setr-pup", TINY, 150)
    decode = head.decode_head
    assert decode.conv_seg.weight.std().item() == pytest.approx(0.01, rel=0.05)
    assert not decode.conv_seg.bias.any()
    convolution = decode.up_convs[1][0].conv.weight
    assert convolution.std().item() == pytest.approx((2 / (256 * 9)) ** 0.5, rel=0.02)
    assert decode.norm.eps == 1e-6 and decode.up_convs[0][0].bn.eps == 1e-5


def test_classifier_before_or_behind_the_last_enlargement() -> None:  # S7
    torch.manual_seed(0)
    head = UpHead(12, 8, 3, (2, 2), 5).double().eval()
    maps = torch.randn(1, 12, 4, 4, dtype=torch.double)
    late = head.norm(maps)
    for step in head.up_convs:
        late = enlarged(step(late), 2)
    torch.testing.assert_close(head(maps), head.conv_seg(late), rtol=0, atol=1e-12)


def test_evaluation_does_not_depend_on_the_batch_and_training_does() -> None:  # S6
    torch.manual_seed(0)
    head = make_dense_head("bn-linear", TINY, 5).double()
    maps = torch.randn(3, 24, 4, 4, dtype=torch.double)
    assert not torch.allclose(head.decode([maps])[:1], head.decode([maps[:1]]))
    head.eval()
    torch.testing.assert_close(head([maps])[:1], head([maps[:1]]), rtol=0, atol=1e-12)


def test_ignored_pixels() -> None:  # S8, S9
    torch.manual_seed(0)
    logits = torch.randn(2, 5, 6, 6, dtype=torch.double, requires_grad=True)
    labels = torch.randint(0, 5, (2, 6, 6))
    labels[0, :2] = 255
    loss = pixel_cross_entropy(logits, labels)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert not gradient[0, :, :2].any() and gradient[0, :, 2:].any()
    valid = pixel_cross_entropy(logits, labels, "valid")
    assert (loss * labels.numel()).item() == pytest.approx((valid * (labels != 255).sum()).item())
    for mean in ("all", "valid"):
        nothing = pixel_cross_entropy(logits, torch.full_like(labels, 255), mean)
        assert nothing.item() == 0
        assert not torch.autograd.grad(nothing, logits)[0].any()


def test_windows() -> None:  # S10
    torch.manual_seed(0)
    mix = torch.nn.Conv2d(3, 5, 1).double().requires_grad_(False)

    def predict(windows: torch.Tensor) -> torch.Tensor:
        return mix(windows) + windows.mean((1, 2, 3), keepdim=True)

    image = torch.randn(1, 3, 8, 16, dtype=torch.double)
    tiles = torch.cat([predict(image[..., :8]), predict(image[..., 8:])], dim=-1)
    torch.testing.assert_close(sliding_logits(predict, image, 8, 8), tiles, rtol=0, atol=1e-14)
    torch.testing.assert_close(sliding_logits(predict, image[..., :8], 8, 5), predict(image[..., :8]), rtol=0, atol=1e-14)
    for length in range(1, 60):
        spans = window_spans(length, 16, 11)
        assert {pixel for begin, end in spans for pixel in range(begin, end)} == set(range(length))
    with pytest.raises(UsageError, match="leave gaps"):
        sliding_logits(predict, image, 8, 9)


def test_flip_averaging_commutes_with_flipping() -> None:  # S11
    torch.manual_seed(0)
    mix = torch.nn.Conv2d(3, 5, 3, padding=1).double().requires_grad_(False)
    images = [torch.randn(1, 3, 6, 8, dtype=torch.double), torch.randn(1, 3, 9, 12, dtype=torch.double)]
    found = multi_scale_probabilities(mix, images, (6, 8))
    flipped = multi_scale_probabilities(mix, [each.flip(-1) for each in images], (6, 8))
    torch.testing.assert_close(found.flip(-1), flipped, rtol=0, atol=1e-14)
    assert found.sum(1).allclose(torch.ones(1, 6, 8, dtype=torch.double))


def test_sizes() -> None:
    assert size_at((40, 80), 1.5, "mmseg1") == (60, 120)
    assert size_at((40, 80), 0.5, "setr", short=64) == (64, 128)


@pytest.mark.parametrize("seed", range(3))
def test_scores_are_scikit_learn_s(seed: int) -> None:  # S12
    generator = np.random.default_rng(seed)
    labels, predictions = generator.integers(0, 6, (4, 9, 7)), generator.integers(0, 5, (4, 9, 7))
    labels[labels == 3] = 255
    parts, whole = ConfusionMatrix(8), ConfusionMatrix(8)
    for one, other in zip(predictions, labels):
        parts.add(torch.from_numpy(one), torch.from_numpy(other))
    whole.add(torch.from_numpy(predictions), torch.from_numpy(labels))
    assert torch.equal(parts.counts, whole.counts)
    known = labels != 255
    regions, used = whole.regions(), whole.regions().union > 0
    expected = jaccard_score(labels[known], predictions[known], average="macro", labels=np.flatnonzero(used))
    assert regions.mean_iou == pytest.approx(100 * expected)
    assert regions.pixel_accuracy == pytest.approx(100 * accuracy_score(labels[known], predictions[known]))
    assert np.isnan(regions.iou[6:]).all() and regions.iou[3] == 0  # predicted, never labelled


def test_nothing_labelled() -> None:
    matrix = ConfusionMatrix(3)
    matrix.add(torch.zeros(2, 2, dtype=torch.long), torch.full((2, 2), 255))
    assert np.isnan(matrix.regions().mean_iou) and np.isnan(matrix.regions().pixel_accuracy)
    with pytest.raises(ValueError, match="labels of shape"):
        matrix.add(torch.zeros(2, 2, dtype=torch.long), torch.zeros(2, 3, dtype=torch.long))
