"""Every tensor is on the device of the model: every method and preset on each family, on a fake GPU or the meta device.

The registry is swept, so that a new method is tested without an edit here. What is checked: forward passes in training and in
evaluation mode (with ``predict``), the backward pass, ``prepare``, ``phases`` and the training loop, and the analysis of a
trained model. A fake GPU (see ``fake_gpu``) refuses what a real one does, and is slow; the meta device refuses tensors on the CPU
as well, runs backward passes, and is fast. So the first sees every method on each family and every preset on a ViT, the second
every preset on each family.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from fake_gpu import DEVICE, Constants, FakeGpu, moved_to_meta, skip_where_values_matter
from sweeps import FEW, case
from test_contract import SOURCE_CLASSES, fitting, labels
from timm.models import SwinTransformer, VisionTransformer
from timm.models.eva import Eva
from torch import Tensor

from vpbench.analysis import inside
from vpbench.backbones.family import adapter_for
from vpbench.core.errors import UnsupportedError, WeightsError
from vpbench.data.batches import Normaliser
from vpbench.data.cache import CachedData, CachedSplit
from vpbench.interface import Context, Method, MethodConfig, Session, Tokens
from vpbench.models.build import needs_classifier
from vpbench.models.prompted import PromptedModel
from vpbench.models.registry import method_class, resolve_method
from vpbench.spec.recipe import Recipe
from vpbench.spec.run_spec import BackboneSpec, DataSpec, Preprocess, RunSpec
from vpbench.training.fit import Trainer

CLASSES, SIZE = 7, 32
HALF = (0.5, 0.5, 0.5)
VIT = partial(VisionTransformer, img_size=SIZE, patch_size=8, embed_dim=192, depth=2, num_heads=3, num_classes=0)
BACKBONES: dict[str, Callable[..., torch.nn.Module]] = {
    "vit": VIT,
    "registers": partial(VIT, reg_tokens=2),
    "clip": partial(VIT, pre_norm=True),
    "mean": partial(VIT, global_pool="avg"),
    "eva": partial(Eva, img_size=SIZE, patch_size=8, embed_dim=192, depth=2, num_heads=3, num_classes=0, use_rot_pos_emb=True),
    "swin": partial(
        SwinTransformer, img_size=SIZE, patch_size=4, embed_dim=96, depths=(2, 2), num_heads=(3, 6), window_size=4, num_classes=0
    ),
}
FAMILIES = ("vit", "eva", "swin")
VARIANTS = ("registers", "clip", "mean")  # of a ViT, which no method treats in a way of its own
SPLIT = CachedSplit(np.zeros((4, SIZE, SIZE, 3), np.uint8), np.array([0, 3, 6, 2]), SIZE)
DATA = CachedData(SPLIT, SPLIT, SPLIT, tuple(map(str, range(CLASSES))))

pytestmark = pytest.mark.skipif(
    tuple(map(int, torch.__version__.split(".")[:2])) < (2, 14), reason="not tried: torch 2.4 aborts in autograd on a fake GPU"
)

# Methods that record gradients in hooks of the backward pass while they prepare; no fake GPU runs one.
GRADIENT_HOOKS = {"gps", "spt"}


def on_fake_gpu() -> Iterator[tuple[str, str]]:
    for label in labels():
        yield from ((label, name) for name in (FAMILIES if ":" not in label else ("vit",)))
    yield from (("vpt", name) for name in VARIANTS)


def always(label: str, name: str) -> bool:
    """Some methods on a ViT, and one on the other families: other methods put their tensors there in the same way."""
    return label in ({*FEW, "insvp", "ivpt", "lora"} if name == "vit" else {"vpt"})


def sweep(pairs: Iterable[tuple[str, str]]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(("label", "name"), [case(*pair, always=pair if always(*pair) else ()) for pair in pairs])


def trains_in_its_own_way(label: str) -> bool:
    """Of a preset: whether its method does more than the training loop."""
    kind = method_class(label.partition(":")[0])
    return kind.prepare is not Method.prepare or kind.phases is not Method.phases


def model_of(kind: type[Method[Any]], config: MethodConfig, name: str, source_classifier: bool = False) -> PromptedModel:
    torch.manual_seed(0)
    adapter = adapter_for(BACKBONES[name]())
    if source_classifier:
        adapter.set_source_classifier(torch.nn.Linear(adapter.feature_width, SOURCE_CLASSES))
    return PromptedModel(adapter, kind(config, adapter.shape, CLASSES), CLASSES)


def build(label: str, name: str) -> PromptedModel:
    """A model in training mode on the CPU; skips combinations that are not supported."""
    spec = resolve_method(label, fitting(label, name))
    kind = method_class(spec.name)
    try:
        return model_of(kind, kind.Config.model_validate(spec.config), name, needs_classifier(spec))
    except UnsupportedError as error:
        pytest.skip(str(error))


class ShortTrainer(Trainer):
    """Trains and validates three times at most: a method may train for dozens of candidates, which repeat the same operations."""

    calls = 0

    def train(self, name: str = "train") -> None:
        self.calls += 1
        if self.calls <= 3:
            super().train(name)

    def validate(self) -> float:
        return super().validate() if self.calls <= 3 else 0.0


def on_device(tensor: Tensor) -> None:
    assert tensor.device == DEVICE


def check_forward(model: PromptedModel) -> None:
    """Training and evaluation mode, then merged."""
    gpu = FakeGpu()
    gpu.move(model)
    with gpu.active():
        images, targets = torch.randn(4, 3, SIZE, SIZE, device=DEVICE), torch.zeros(4, dtype=torch.long, device=DEVICE)
        for tensor in model.train().training_loss(images, targets):
            on_device(tensor)
        with torch.no_grad():
            logits, features = model.eval().prediction(images, with_features=True)
            assert features is not None
            on_device(logits)
            on_device(features)
            model.merge()
            on_device(model(images))


def check_on_meta(model: PromptedModel) -> None:
    """Training mode with the backward pass, evaluation mode, then merged."""
    model = moved_to_meta(model)
    images, targets = torch.empty(4, 3, SIZE, SIZE, device="meta"), torch.empty(4, dtype=torch.long, device="meta")
    loss, _ = model.train().training_loss(images, targets)
    loss.backward()
    gradients = [(name, tensor.grad) for name, tensor in model.trainable()]
    assert [name for name, gradient in gradients if gradient is not None and gradient.device.type != "meta"] == []
    assert any(gradient is not None for _, gradient in gradients)
    with torch.no_grad(), Constants():
        model.eval().prediction(images)
        model.merge()
        assert model(images).device.type == "meta"


def check_training(model: PromptedModel, label: str = "linear", **recipe: Any) -> Trainer:
    """``prepare``, ``phases``, validation and test; mixing images and smoothing labels, so that the loop's own tensors count."""
    spec = RunSpec(
        method=resolve_method(label),
        backbone=BackboneSpec(name="vit", weights="random", image_size=SIZE, patch_size=8, mean=HALF, std=HALF),
        data=DataSpec(suite="custom", dataset="zeros", digest="0"),
        recipe=Recipe(**{"optimizer": "adamw", "lr": 0.01, "epochs": 1, "batch_size": 4, **recipe}),
        preprocess=Preprocess(random_flip=bool(recipe)),
        selection="best_val",
        seed=42,
    )
    gpu = FakeGpu()
    gpu.move(model)
    with gpu.active(), gpu.gradients(model):
        trainer = ShortTrainer(model, DATA, spec, Normaliser(HALF, HALF, DEVICE), DEVICE)
        trainer.fit()
        trainer.evaluate(DATA.test, features=2)
    for tensor in [*model.parameters(), *model.buffers()]:
        on_device(tensor)
    return trainer


def check_analysis(model: PromptedModel) -> None:
    gpu = FakeGpu()
    readable = inside.is_readable(model)
    gpu.move(model)
    model.eval()
    with gpu.active(), gpu.gradients(model):
        images, targets = torch.randn(4, 3, SIZE, SIZE, device=DEVICE), torch.zeros(4, dtype=torch.long, device=DEVICE)
        on_device(inside.prompted_pixels(model, images))
        on_device(inside.first_prompts(model, images))
        inside.grad_cam(model, images, targets)
        if readable:
            inside.attention_by_block(model, images)


@sweep(on_fake_gpu())
def test_forward(label: str, name: str) -> None:
    with skip_where_values_matter():
        check_forward(build(label, name))


@sweep((label, name) for label in labels() for name in FAMILIES)
def test_on_meta(label: str, name: str) -> None:
    check_on_meta(build(label, name))


@pytest.mark.sweep
@pytest.mark.parametrize("label", [case(label) for label in labels() if ":" not in label or trains_in_its_own_way(label)])
def test_training(label: str) -> None:
    if label.partition(":")[0] in GRADIENT_HOOKS:
        pytest.skip("needs a backward pass with values")
    with skip_where_values_matter():
        try:
            assert check_training(build(label, "vit"), label).curve
        except WeightsError as error:
            pytest.skip(f"needs a file: {error}")


@pytest.mark.parametrize("label", ["linear", "vpt"])  # on features computed once, and on images
def test_training_loop(label: str) -> None:
    """With all tensors that the loop itself makes: random flips, mixed images and smoothed labels."""
    check_training(build(label, "vit"), label, mixup=0.8, cutmix=1.0, label_smoothing=0.1)


@pytest.mark.sweep
@sweep([*((label, "vit") for label in labels() if ":" not in label), ("linear", "swin"), ("vpt", "swin")])
def test_analysis(label: str, name: str) -> None:
    with skip_where_values_matter():
        check_analysis(build(label, name))


# Methods that leave a tensor on the CPU, each at another place


class Forgetful(Method[MethodConfig]):
    title, summary, paper, fidelity = "Forgetful", "Has a tensor on the CPU.", "none", "paper"

    def build(self) -> None:
        self.constant = torch.ones(192)  # not a buffer, so that nothing moves it


class InForward(Forgetful):
    def before_block(self, block: int, tokens: Tokens, context: Context) -> Tokens:
        return tokens.with_values(tokens.x + self.constant)


class InTrainingOnly(Forgetful):
    def pixels(self, images: Tensor, context: Context) -> Tensor:
        return images + torch.rand(images.shape[-1]) if context.training else images


class InPredictOnly(Forgetful):
    def predict(self, once: Callable[..., Tensor], images: Tensor) -> Tensor:
        return once(images) + torch.zeros(CLASSES)


class InLossOnly(Forgetful):
    def loss(self, logits: Tensor, targets: Tensor, context: Context) -> Tensor:
        return super().loss(logits, targets, context) + torch.ones(2).sum(0, keepdim=True)


class Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return 2 * x

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0] * torch.full((192,), 2.0)


class InBackwardOnly(Forgetful):
    def make_head(self, width: int, classes: int) -> torch.nn.Module:
        return torch.nn.Sequential(torch.nn.Linear(width, width), DoubledModule(), super().make_head(width, classes))


class DoubledModule(torch.nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return Doubled.apply(x)


class InPrepareOnly(Forgetful):
    def prepare(self, session: Session) -> None:
        for images, _ in session.training_batches():
            images + torch.ones(SIZE)


class InPhasesOnly(Forgetful):
    def phases(self, session: Session) -> None:
        session.train()
        for images, _ in session.training_batches():
            session.logits(images) * torch.ones(CLASSES)


class InAnalysisOnly(Forgetful):
    def pixels(self, images: Tensor, context: Context) -> Tensor:
        return images + self.constant[:SIZE]


@pytest.mark.parametrize(
    ("kind", "check"),
    [
        (InForward, check_forward),
        (InForward, check_on_meta),
        (InTrainingOnly, check_forward),
        (InPredictOnly, check_forward),
        (InLossOnly, check_forward),
        (InBackwardOnly, check_on_meta),
        (InPrepareOnly, check_training),
        (InPhasesOnly, check_training),
        (InAnalysisOnly, check_analysis),
    ],
)
def test_a_tensor_on_the_cpu_is_found(kind: type[Method[Any]], check: Callable[[PromptedModel], object]) -> None:
    with pytest.raises(RuntimeError, match=r"device|cpu"):
        check(model_of(kind, MethodConfig(), "vit"))


class Right(Method[MethodConfig]):
    title, summary, paper, fidelity = "Right", "Has a buffer.", "none", "paper"

    def build(self) -> None:
        self.own.register_buffer("constant", torch.ones(192))

    def pixels(self, images: Tensor, context: Context) -> Tensor:
        return images + self.own.constant[:SIZE]

    def loss(self, logits: Tensor, targets: Tensor, context: Context) -> Tensor:
        return super().loss(logits, targets, context) + torch.ones((), device=logits.device)


@pytest.mark.parametrize("check", [check_forward, check_on_meta, check_training, check_analysis])
def test_a_buffer_is_moved(check: Callable[[PromptedModel], object]) -> None:
    check(model_of(Right, MethodConfig(), "vit"))
