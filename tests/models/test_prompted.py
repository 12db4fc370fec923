"""What a method can do around the blocks: read out, ask for plain features, predict in several passes, in training too."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from timm.models import VisionTransformer
from torch import Tensor

from vpbench.backbones.family import adapter_for
from vpbench.interface import Context, Method, MethodConfig, Scope, Tokens
from vpbench.models.prompted import ImagesWithFeatures, PromptedModel

WIDTH, SIZE = 48, 32


class Plain(Method[MethodConfig]):
    title = summary = paper = "for a test"
    fidelity = "paper"


def model_of(method: type[Method[Any]]) -> PromptedModel:
    torch.manual_seed(0)
    vit = VisionTransformer(img_size=SIZE, patch_size=8, embed_dim=WIDTH, depth=2, num_heads=3, num_classes=0)
    adapter = adapter_for(vit)
    return PromptedModel(adapter, method(method.Config(), adapter.shape, 5), 5)


@pytest.fixture
def images() -> Tensor:
    return torch.randn(3, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (torch.zeros(2, 3, SIZE, SIZE, dtype=torch.uint8), "torch.uint8"),
        (torch.zeros(2, 1, SIZE, SIZE), "(2, 1, "),
        (torch.zeros(2, 3, 4, 4), "(2, 3, 4, 4)"),
        (torch.zeros(3, SIZE, SIZE), "given: torch.float32 (3, "),
        (np.zeros((2, 3, SIZE, SIZE), np.float32), "given: float32"),
    ],
)
def test_images_of_another_kind_are_refused(given: Any, said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(f"floating-point tensor (B, 3, {SIZE}, {SIZE})")) as refused:
        model_of(Plain)(given)
    assert said in str(refused.value)


class ReadsTwo(Plain):
    """Features beside the mean patch token."""

    def readout(self, tokens: Tokens, features: Tensor, context: Context) -> Tensor:
        return torch.cat([features, tokens.patch_tokens.mean(1)], dim=-1)

    def readout_width(self, width: int) -> int:
        return 2 * width


def test_readout(images: Tensor) -> None:
    model = model_of(ReadsTwo).eval()
    assert model.head.in_features == 2 * WIDTH  # type: ignore[union-attr]
    tokens = model.backbone.timm_model.forward_features(images)  # type: ignore[operator]
    before_norm = model.backbone.embed(images)
    for block in range(2):
        before_norm = model.backbone.block(block, before_norm)
    features = model.features(images)
    torch.testing.assert_close(features[:, :WIDTH], tokens[:, 0])
    torch.testing.assert_close(features[:, WIDTH:], before_norm.patch_tokens.mean(1))
    model.reinitialise()
    assert model(images).shape == (3, 5)


class Edited(Plain):
    """Doubles every MLP, and routes by what the plain model makes of the images."""

    uses_plain_features = True
    seen: list[Tensor]

    def attach(self, scope: Scope) -> None:
        for block in range(2):
            scope.after("mlp_branch", lambda _, y: 2 * y, block)

    def pixels(self, images: Tensor, context: Context) -> Tensor:
        self.seen = [*getattr(self, "seen", []), context.plain_features(images), context.plain_features(images + 1)]
        return images


def test_plain_features(images: Tensor) -> None:
    """Of the backbone without the method's edits, without gradient; for the images themselves from a cache, if there."""
    model = model_of(Edited).eval()
    plain, shifted = (adapter_features(each) for each in (images, images + 1))
    prompted = model.features(images)
    torch.testing.assert_close(model.method.seen[0], plain)
    assert not model.method.seen[0].requires_grad
    assert (prompted - plain).abs().max() > 1e-3
    cached = torch.randn(3, WIDTH)
    model(ImagesWithFeatures(images, cached))
    assert torch.equal(model.method.seen[2], cached)
    torch.testing.assert_close(model.method.seen[3], shifted)
    parts = ImagesWithFeatures(images, cached).chunk(2)
    assert [len(part) for part in parts] == [2, 1] and torch.equal(parts[1].features, cached[2:])


def adapter_features(images: Tensor) -> Tensor:
    with torch.no_grad():
        return model_of(Plain).backbone(images)


class TwoPasses(Plain):
    """The mean over an image and its mirror image."""

    predicts_in_training = True

    def predict(self, once: Callable[..., Tensor], images: Tensor) -> Tensor:
        return (once(images, side=0) + once(images.flip(-1), side=1)) / 2

    def loss(self, logits: Tensor, targets: Tensor, context: Context) -> Tensor:
        return super().loss(logits, targets, context) + context.stash["side"]


class OnePassInTraining(TwoPasses):
    predicts_in_training = False

    def loss(self, logits: Tensor, targets: Tensor, context: Context) -> Tensor:
        return Method.loss(self, logits, targets, context)


def test_predict_in_training(images: Tensor) -> None:
    both, one = model_of(TwoPasses), model_of(OnePassInTraining)
    targets = torch.tensor([0, 1, 2])
    loss, logits = both.training_loss(images, targets)
    torch.testing.assert_close(logits, both(images))
    torch.testing.assert_close(loss, torch.nn.functional.cross_entropy(logits, targets) + 1)  # the context of the last pass
    _, single = one.training_loss(images, targets)
    torch.testing.assert_close(single, one.head(one.features(images)))
    assert (single - logits).abs().max() > 1e-4
    torch.testing.assert_close(one.eval()(images), both.eval()(images))


def test_trained_backbone_parameters_are_saved_by_name_and_reset(images: Tensor) -> None:
    class TrainsNorm(Plain):
        def attach(self, scope: Scope) -> None:
            scope.train(scope.parameters("norm"))

    model = model_of(TrainsNorm)
    saved = model.snapshot()
    assert {name for name in saved if name.startswith("backbone.")} == {"backbone.norm.weight", "backbone.norm.bias"}
    with torch.no_grad():
        model.scope.trained["norm.bias"].add_(1)
    model.reinitialise()
    assert torch.equal(model.scope.trained["norm.bias"], saved["backbone.norm.bias"])
