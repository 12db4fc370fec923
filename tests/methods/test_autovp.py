"""AutoVP: the scaled canvas, its mappings, and CLIP's texts from a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from test_contract import CLASSES, IMAGES, SIZE, SOURCE_CLASSES, TARGETS, backbone, build, step
from test_ilm_vp import Counting
from torch.nn import functional as F

from vpbench.backbones.vit import ViTAdapter
from vpbench.core.errors import UnsupportedError, UsageError
from vpbench.measure.size import parameter_counts
from vpbench.methods._canvas import scaled
from vpbench.methods._label_mapping import frequency_mapping
from vpbench.methods.autovp import AutoVP
from vpbench.models.prompted import PromptedModel
from vpbench.models.registry import resolve_method
from vpbench.search.space import read_space


def made(classes: int = CLASSES, **options: Any) -> PromptedModel:
    adapter = backbone("vit", "autovp")
    torch.manual_seed(0)
    config = AutoVP.Config(**resolve_method("autovp", options).config)
    return PromptedModel(adapter, AutoVP(config, adapter.shape, classes), classes).eval()


def canvas(model: PromptedModel, pixels: torch.Tensor) -> torch.Tensor:
    """What the network sees, as pixels."""
    with torch.no_grad():
        return model.method.pixels((pixels - 0.5) / 0.5, model.context(IMAGES)) * 0.5 + 0.5


def test_counts_on_vit_b16(vit_b16: ViTAdapter) -> None:
    shape = vit_b16.shape
    with torch.device("meta"):
        vit_b16.set_source_classifier(torch.nn.Linear(768, 1000))
        try:
            for options, method_count, head in (
                ({}, 150_529, 1001 * 10),
                ({"train_scale": False}, 150_528, 1001 * 10),
                ({"mapping": "frequency", "labels_per_class": 10}, 150_529, 0),
            ):
                config = AutoVP.Config(**options)
                counts = parameter_counts(PromptedModel(vit_b16, AutoVP(config, vit_b16.shape, 10), 10))
                assert (counts["params_method"], counts["params_head"]) == (method_count, head)
        finally:
            vit_b16.source_classifier, vit_b16.shape = None, shape


@pytest.mark.parametrize("scale", [0.5, 1.0, 1.5])
def test_a_fixed_scale_resizes_once(scale: float) -> None:
    model = made(train_scale=False, scale=scale)
    side = round(128 / 224 * SIZE * scale)
    pixels = torch.rand(2, 3, SIZE, SIZE)
    found = canvas(model, pixels)
    before = (SIZE - side) // 2
    inside = slice((SIZE - side + 1) // 2, (SIZE - side + 1) // 2 + side)
    small = F.interpolate(pixels, size=(side, side), mode="bilinear", antialias=True)
    if (SIZE - side) % 2 == 0:
        torch.testing.assert_close(found[:, :, inside, inside], small)
        assert torch.equal(found[:, :, :before], torch.full_like(found[:, :, :before], 0.5))  # sigmoid of a prompt of zeros
    assert found.shape == pixels.shape


def test_a_trained_scale_of_1_changes_nothing_and_receives_gradient() -> None:
    fixed, trained = made(train_scale=False), made()
    pixels = torch.rand(2, 3, SIZE, SIZE)
    torch.testing.assert_close(canvas(trained, pixels), canvas(fixed, pixels), rtol=1e-4, atol=1e-4)
    step(trained, IMAGES)
    gradient = trained.own.scale.grad  # type: ignore[union-attr]
    assert gradient is not None and gradient != 0


def test_the_gradient_of_the_scale() -> None:
    """By finite differences, at a scale where the square without prompt keeps its whole number of pixels."""

    def loss(scale: float) -> torch.Tensor:
        model = made(scale=scale)
        torch.manual_seed(0)
        found = model.training_loss(IMAGES, TARGETS)[0]
        found.backward()
        return torch.stack([found.detach(), model.own.scale.grad])  # type: ignore[union-attr, list-item]

    (before, _), (_, gradient), (behind, _) = loss(1.029), loss(1.03), loss(1.031)
    assert float(gradient) == pytest.approx(float(behind - before) / 2e-3, rel=0.1, abs=5e-3)


@pytest.mark.parametrize("scale", [0.37, 1.0, 1.31, 4.0])
def test_scaling_is_torchs_bilinear_sampling(scale: float) -> None:
    factor = torch.tensor(scale, requires_grad=True)
    theta = torch.eye(2, 3) / torch.tensor(scale)
    grid = F.affine_grid(theta.expand(len(IMAGES), -1, -1), list(IMAGES.shape), align_corners=True)
    expected = F.grid_sample(IMAGES, grid, padding_mode="zeros", align_corners=True)
    torch.testing.assert_close(scaled(IMAGES, factor), expected, rtol=1e-4, atol=1e-4)


def test_scaling_is_around_the_centre_with_zeros_from_outside() -> None:
    model = made(scale=0.5)
    with torch.no_grad():
        model.own.program.fill_(-100.0)  # type: ignore[union-attr, operator]  # sigmoid 0
    found = canvas(model, torch.ones(1, 3, SIZE, SIZE))[0, 0]
    side = int(round(128 / 224 * SIZE) * 0.5)
    inside = slice((SIZE - side) // 2 + 1, (SIZE + side) // 2 - 1)
    assert found[inside, inside].min() > 0.9
    assert found[: (SIZE - side) // 2 - 1].max() < 1e-3
    torch.testing.assert_close(found, found.flip(0, 1), rtol=1e-3, atol=1e-3)


def test_no_prompt_under_the_image() -> None:
    model = made(scale=1.5)
    with torch.no_grad():
        model.own.program.fill_(100.0)  # type: ignore[union-attr, operator]  # sigmoid 1
    found = canvas(model, torch.zeros(1, 3, SIZE, SIZE))[0, 0]
    side = int(round(128 / 224 * SIZE) * 1.5)
    assert int((found < 0.5).sum()) == side**2


def test_mappings() -> None:
    classifier = made().backbone.source_classifier
    assert classifier is not None
    full, direct, frequent = made(), made(mapping="direct"), made(mapping="frequency", labels_per_class=3)
    source = classifier(full.plain_features(full.method.pixels(IMAGES, full.context(IMAGES))))
    torch.testing.assert_close(full(IMAGES), full.head(source))
    torch.testing.assert_close(direct(IMAGES), source[:, :CLASSES])
    session: Any = Counting(frequent)
    frequent.method.prepare(session)
    expected = frequency_mapping(source.argmax(-1).numpy(), TARGETS.numpy(), SOURCE_CLASSES, CLASSES, 3)
    torch.testing.assert_close(frequent(IMAGES), source[:, torch.from_numpy(expected)].mean(2))
    for epoch in range(3):
        frequent.method.epoch_ended(epoch, 3)
    assert session.passes == 3
    with pytest.raises(UnsupportedError, match="gives each of 7 classes 4"):
        made(mapping="frequency", labels_per_class=4)


def write_texts(
    path: Path, templates: int | None, classes: int = CLASSES, width: int = SOURCE_CLASSES, **more: Any
) -> torch.Tensor:
    texts = torch.randn(*([templates] if templates else []), classes, width, generator=torch.Generator().manual_seed(2))
    save_file({"class_embeddings": texts, **more}, path)
    return texts


@pytest.mark.parametrize("templates", [None, 2])
def test_texts_of_clip(templates: int | None, tmp_path: Path) -> None:
    """Scaled cosines between the projected feature and the texts; the linear layer reads each class's first template."""
    path = tmp_path / "texts.safetensors"
    texts = write_texts(path, templates, logit_scale=torch.tensor(50.0))
    model = made(class_embeddings=str(path), mapping="full", prompt="raw")
    projection = model.backbone.source_classifier
    assert projection is not None
    embedded = projection(model.plain_features(model.method.pixels(IMAGES, model.context(IMAGES))))
    scores = 50 * F.cosine_similarity(embedded[:, None], texts.reshape(-1, SOURCE_CLASSES)[None], dim=-1)
    bias = model.head.bias
    torch.testing.assert_close(model(IMAGES), scores[:, :CLASSES] + bias, rtol=1e-4, atol=1e-3)
    zero_shot = made(class_embeddings=str(path), mapping="direct", prompt="raw")
    torch.testing.assert_close(zero_shot(IMAGES), scores[:, :CLASSES], rtol=1e-4, atol=1e-3)
    assert list(model.head.weight.shape) == [CLASSES, CLASSES * (templates or 1)]  # type: ignore[union-attr]


def test_texts_that_do_not_fit(tmp_path: Path) -> None:
    path = tmp_path / "texts.safetensors"
    write_texts(path, 2, classes=5)
    with pytest.raises(UsageError, match=r"\(2, 5, 24\) in the file, and the data needs \(templates, 7, E\)"):
        made(class_embeddings=str(path))
    write_texts(path, 2, width=12)
    with pytest.raises(UnsupportedError, match="12 wide, and the backbone's projection gives 24"):
        made(class_embeddings=str(path))
    save_file({"x": torch.zeros(2)}, path)
    with pytest.raises(UsageError, match="only x"):
        made(class_embeddings=str(path))


def test_a_raw_prompt_is_added_behind_the_normalisation() -> None:
    model = made(prompt="raw", train_scale=False)
    with torch.no_grad():
        model.own.program.fill_(2.5)  # type: ignore[union-attr, operator]
        found = model.method.pixels(IMAGES, model.context(IMAGES))
    assert torch.equal(found[:, :, :3], torch.full_like(found[:, :, :3], 2.5))


def test_gradients_are_limited() -> None:
    free, limited = build("autovp"), build("autovp:clip")
    step(free, IMAGES)
    step(limited, IMAGES)
    for model, is_limited in ((free, False), (limited, True)):
        for tensor in (model.own.scale, *model.head.parameters()):
            assert tensor.grad is not None  # type: ignore[union-attr]
            assert (float(tensor.grad.abs().max()) <= 1e-3 * (1 + 1e-6)) == is_limited  # type: ignore[union-attr, arg-type]


def test_the_released_search_space() -> None:
    space = read_space("autovp")
    parameters = space.parameters("autovp")
    assert parameters["scale"] == (0.5, 1.0, 1.5)
    for point in space.grid("autovp"):
        options = {name: value for name, value in {**space.settings("autovp"), **point}.items() if not name.startswith("recipe.")}
        resolve_method("autovp", options)
