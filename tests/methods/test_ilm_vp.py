"""ILM-VP: the canvas, the mapping by frequency, and training without a head."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_contract import CLASSES, IMAGES, SIZE, SOURCE_CLASSES, TARGETS, backbone, build, step
from torch import Tensor
from torch.nn import functional as F

from vpbench.backbones.named import resolve_backbone
from vpbench.backbones.vit import ViTAdapter
from vpbench.core.errors import UnsupportedError, UsageError
from vpbench.measure.size import parameter_counts, parameters_by_part
from vpbench.methods._label_mapping import frequency_mapping
from vpbench.methods.ilm_vp import ILMVP
from vpbench.models.build import build_empty
from vpbench.models.prompted import PromptedModel
from vpbench.models.registry import resolve_method
from vpbench.reporting.describe import describe


def greedy(predicted: list[int], labels: list[int], sources: int, classes: int, per_class: int) -> list[list[int]]:
    """As the paper has it, on the whole table: take the largest count, and leave its row and, once full, its column out."""
    table = np.zeros((sources, classes))
    np.add.at(table, (predicted, labels), 1)
    assigned: list[list[int]] = [[] for _ in range(classes)]
    for _ in range(classes * per_class):
        source, label = np.unravel_index(table.argmax(), table.shape)
        assigned[label].append(int(source))
        table[source] = -1
        if len(assigned[label]) == per_class:
            table[:, label] = -1
    return assigned


@pytest.mark.parametrize("per_class", [1, 3])
@pytest.mark.parametrize("count", [5, 40, 4000])
def test_mapping_by_frequency(count: int, per_class: int) -> None:
    random = np.random.default_rng(count)
    predicted, labels = random.integers(0, 20, count), random.integers(0, 6, count)
    found = frequency_mapping(predicted, labels, 30, 6, per_class)
    assert found.tolist() == greedy(predicted.tolist(), labels.tolist(), 30, 6, per_class)
    assert len(set(found.ravel().tolist())) == 6 * per_class


def test_counts_on_vit_b16(vit_b16: ViTAdapter) -> None:
    with torch.device("meta"):
        vit_b16.set_source_classifier(torch.nn.Linear(768, 1000))
        try:
            for side, active in ((128, 101_376), (32, 147_456)):
                method = ILMVP(ILMVP.Config(image_size=side), vit_b16.shape, 100)
                model = PromptedModel(vit_b16, method, 100)
                counts = parameter_counts(model)
                assert counts["params_method"] == counts["params_trainable"] == 150_528
                assert (counts["params_active"], counts["params_head"]) == (active, 0)
                assert counts["params_total"] == 85_798_656 + 150_528 + 769_000
                assert parameters_by_part(model) == {
                    "program": 150_528, "head": 0, "source classifier": 769_000, "backbone": 85_798_656
                }  # fmt: skip
        finally:  # the fixture is shared
            vit_b16.source_classifier = None
            vit_b16.shape = type(vit_b16.shape)(**{**vars(vit_b16.shape), "source_classes": 0})


def test_the_canvas_in_pixels() -> None:
    """The image shrunk in the middle, and sigmoid of the prompt around it, all of it normalised."""
    model = build("ilm_vp")
    method: Any = model.method
    assert method.side == round(128 / 224 * SIZE)
    with torch.no_grad():
        model.own.program.normal_()  # type: ignore[union-attr, operator]
    pixels = torch.rand(2, 3, SIZE, SIZE)
    found = method.pixels((pixels - 0.5) / 0.5, model.context(IMAGES)) * 0.5 + 0.5
    before = (SIZE - method.side + 1) // 2
    inside = slice(before, before + method.side)
    small = F.interpolate(pixels, size=(method.side, method.side), mode="bilinear", antialias=True)
    torch.testing.assert_close(found[:, :, inside, inside], small)
    expected = torch.sigmoid(model.own.program).expand(2, -1, -1, -1).clone()  # type: ignore[arg-type]
    expected[:, :, inside, inside] = small
    torch.testing.assert_close(found, expected)


def test_logits_are_those_of_the_mapped_classes() -> None:
    model = build("ilm_vp").eval()
    mapping = torch.tensor([5, 1, 23, 0, 7, 8, 2])
    model.own.mapping.copy_(mapping[:, None])  # type: ignore[union-attr, operator]
    classifier = model.backbone.source_classifier
    assert classifier is not None
    prompted = model.method.pixels(IMAGES, model.context(IMAGES))
    expected = classifier(model.plain_features(prompted))[:, mapping]
    torch.testing.assert_close(model(IMAGES), expected)
    assert not list(model.head.parameters())


class Counting:
    """A session over the contract's images."""

    def __init__(self, model: PromptedModel) -> None:
        self.model, self.passes = model, 0

    def training_batches(self) -> Any:
        self.passes += 1
        return [(IMAGES[:3], TARGETS[:3]), (IMAGES[3:], TARGETS[3:])]

    def logits(self, images: Tensor) -> Tensor:
        return self.model.eval()(images)


@pytest.mark.parametrize(("label", "passes"), [("ilm_vp", 3), ("ilm_vp:flm", 1), ("ilm_vp:rlm", 0)])
def test_when_the_mapping_is_made(label: str, passes: int) -> None:
    model = build(label)
    method: Any = model.method
    session = Counting(model)
    method.prepare(session)
    first = model.own.mapping.clone()  # type: ignore[union-attr, operator]
    classifier = model.backbone.source_classifier
    assert classifier is not None
    if passes:
        with torch.no_grad():
            predicted = classifier(model.plain_features(method.pixels(IMAGES, model.context(IMAGES)))).argmax(-1)
        expected = frequency_mapping(predicted.numpy(), TARGETS.numpy(), SOURCE_CLASSES, CLASSES, 1)
        assert torch.equal(first, torch.from_numpy(expected))
    else:
        assert not torch.equal(first.ravel(), torch.arange(CLASSES)) and len(first.unique()) == CLASSES
    for epoch in range(3):
        method.epoch_ended(epoch, 3)  # the last epoch is tested with the mapping that it was trained with
    assert session.passes == passes
    assert "own.mapping" in model.snapshot()


def test_the_prompt_learns() -> None:
    model = build("ilm_vp")
    losses = [float(step(model, IMAGES)) for _ in range(12)]
    assert losses[-1] < losses[0]


def test_what_it_cannot_do() -> None:
    plain = backbone()
    with pytest.raises(UnsupportedError, match="loaded without one"):
        PromptedModel(plain, ILMVP(ILMVP.Config(), plain.shape, CLASSES), CLASSES)
    few = backbone("vit", "ilm_vp")
    with pytest.raises(UnsupportedError, match=f"classifier has {SOURCE_CLASSES}"):
        PromptedModel(few, ILMVP(ILMVP.Config(), few.shape, 25), 25)
    with pytest.raises(UsageError, match="make it smaller"):
        PromptedModel(few, ILMVP(ILMVP.Config(image_size=224), few.shape, CLASSES), CLASSES)


def test_planning_says_that_the_weights_have_no_classifier() -> None:
    spec = resolve_method("ilm_vp")
    with pytest.raises(UnsupportedError, match=r"vit-nano\.safetensors have none"):
        build_empty(spec, resolve_backbone("vit-nano"), 4, "meta")
    model = build_empty(spec, resolve_backbone("vit-nano", "random"), 4, "meta")
    assert model.backbone.shape.source_classes == 1000


def test_what_it_requires_is_shown() -> None:
    assert describe("method", "ilm_vp", Path("none"))["requires"] == ["source classifier", "labelled pass before training"]
    assert describe("method", "linear", Path("none"))["requires"] == "nothing"
