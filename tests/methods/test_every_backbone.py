"""Every method on every kind of backbone: its start, and on an EVA, whose MLPs are gated, what the contract asks for."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import Any

import pytest
import torch
from fake_gpu import moved_to_meta
from sweeps import case
from test_contract import fitting
from timm.models import SwinTransformer, VisionTransformer
from timm.models.eva import Eva
from torch import Tensor, nn

from vpbench.backbones.base import Backbone
from vpbench.backbones.family import adapter_for
from vpbench.core.errors import UnsupportedError
from vpbench.measure.size import parameter_counts
from vpbench.models.build import add_method, needs_classifier
from vpbench.models.prompted import PromptedModel
from vpbench.models.registry import method_registry, resolve_method
from vpbench.spec.recipe import Recipe
from vpbench.training.optim import make_optimizer

CLASSES, SIZE = 7, 32
VIT: dict[str, Any] = {"img_size": SIZE, "patch_size": 8, "embed_dim": 192, "depth": 2, "num_heads": 3, "num_classes": 0}
EVA: dict[str, Any] = {**VIT, "use_rot_pos_emb": True, "global_pool": "token", "init_values": 0.1}
BACKBONES: dict[str, Callable[[], nn.Module]] = {
    "vit": partial(VisionTransformer, **VIT),
    "registers": partial(VisionTransformer, **VIT, reg_tokens=2),
    "clip": partial(VisionTransformer, **VIT, pre_norm=True),
    "mean": partial(VisionTransformer, **VIT, global_pool="avg"),
    "eva": partial(Eva, **EVA),
    "eva gated": partial(Eva, **EVA, qkv_fused=False, swiglu_mlp=True, mlp_ratio=4 * 2 / 3),
    "swin": partial(
        SwinTransformer, img_size=SIZE, patch_size=4, embed_dim=96, depths=(2, 2), num_heads=(3, 6), window_size=4, num_classes=0
    ),
}
FOUR_TIMES = {"fact", "gps", "spt"}  # defined for MLPs of four times the token width alone
IMAGES = torch.randn(3, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
TARGETS = torch.tensor([0, 3, 6])
# What the head reads before training is what it reads of the plain backbone.
NAMES = method_registry().names()
IDENTITY = (
    "adapter", "adapter:houlsby", "adapter:zero", "adaptformer", "adaptformer:vtab", "bias", "convpass", "convpass:attention",
    "convpass:xavier", "dam_vp", "fact", "fact:paper", "fact:tt", "full", "gps", "linear", "lion", "lora", "lora:all-linears",
    "lora:noah", "lora:qv", "mlp", "partial", "snf:affine", "spt", "spt:adapter",
)  # fmt: skip


@cache
def original(name: str, with_classifier: bool) -> Backbone:
    torch.manual_seed(3)
    adapter: Backbone = adapter_for(BACKBONES[name]())
    if with_classifier:
        adapter.set_source_classifier(nn.Linear(adapter.feature_width, 24))
    return adapter


def build(label: str, name: str, seed: int = 0) -> PromptedModel:
    method = resolve_method(label, fitting(label, name))
    adapter = copy.deepcopy(original(name, needs_classifier(method)))
    torch.manual_seed(seed)
    return add_method(method, adapter, CLASSES)


def starts() -> Iterator[Any]:
    """Presets on one backbone, and every method on the others, too."""
    for label in IDENTITY:
        for name in BACKBONES if ":" not in label else ("vit",):
            if not (label in FOUR_TIMES and name == "eva gated"):
                yield case(label, name, always=NAMES if name == "vit" else ("vpt", "insvp", "adapter"))


@pytest.mark.parametrize(("label", "name"), list(starts()))
def test_identity_at_the_start(label: str, name: str) -> None:
    model = build(label, name).eval()
    with torch.no_grad():
        torch.testing.assert_close(model.features(IMAGES), model.plain_features(IMAGES), rtol=1e-4, atol=1e-5)


def gradients(model: PromptedModel) -> dict[str, Tensor]:
    torch.manual_seed(5)  # of whatever the method samples
    model.zero_grad()
    loss, _ = model.train().training_loss(IMAGES, TARGETS)
    loss.backward()
    return {name: tensor.grad.clone() for name, tensor in model.trainable() if tensor.grad is not None}


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("label", [case(label, always=("vpt", "insvp", "lora")) for label in NAMES if label != "peft"])
def test_on_eva(label: str) -> None:
    """peft names modules of timm's ViT: tests/methods/test_peft.py."""
    name = "eva" if label in FOUR_TIMES else "eva gated"
    try:
        model = build(label, name)
    except UnsupportedError as error:
        pytest.skip(str(error))
    plain = original(name, model.backbone.source_classifier is not None)
    optimizer = make_optimizer(model.trainable(), Recipe(optimizer="adamw", lr=1e-2))
    for _ in range(2):  # in the first, values behind one that starts at zero receive no gradient
        once = gradients(model)
        optimizer.step()
    assert all(once[key].any() for key, _ in model.trainable())
    once = gradients(model)
    model.backbone.checkpoint_blocks(True)
    assert same(gradients(model), once), "computing blocks again changes gradients"
    model.backbone.checkpoint_blocks(False)
    with torch.no_grad():
        logits = model.eval()(IMAGES)
        alone = torch.cat([model(image) for image in IMAGES.split(1)])
    torch.testing.assert_close(alone, logits, rtol=1e-4, atol=1e-4)
    other = build(label, name, seed=1)
    other.restore(model.snapshot())
    assert parameter_counts(moved_to_meta(build(label, name))) == parameter_counts(other)
    with torch.no_grad():
        assert torch.equal(other.eval()(IMAGES), logits)
        other.merge()
        torch.testing.assert_close(other(IMAGES), logits, rtol=1e-4, atol=1e-4)
        model.scope.undo()
        assert torch.equal(model.backbone(IMAGES), plain(IMAGES))
    assert same(model.backbone.state_dict(), plain.state_dict())


@pytest.mark.parametrize("label", sorted(FOUR_TIMES))
def test_gated_mlps_are_refused(label: str) -> None:
    with pytest.raises(UnsupportedError, match=r"MLPs of 4 x 192 channels, and this backbone's have 1024"):
        build(label, "eva gated")


@pytest.mark.parametrize("label", ["ssf", "lora:all-linears"])
def test_widths_are_those_of_the_layers(label: str) -> None:
    """fc1 of a gated MLP is as wide as value and gate together, and fc2 reads one of them."""
    shape = build(label, "eva gated").backbone.shape
    found = [shape.linear_of(site, 1) for site in ("qkv", "proj", "fc1", "fc2")]
    assert found == [(192, 576), (192, 192), (192, 1024), (512, 192)]
