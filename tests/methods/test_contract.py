"""What every method must do, swept over the registry and over families of backbones: a new method is tested by existing."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial

import pytest
import torch
from timm.models import SwinTransformer, VisionTransformer
from torch import Tensor

from vpbench.backbones.base import Backbone
from vpbench.backbones.family import adapter_for
from vpbench.core.errors import UnsupportedError
from vpbench.measure.operations import count_operations
from vpbench.measure.size import parameter_counts
from vpbench.models.prompted import PromptedModel
from vpbench.models.registry import method_class, method_registry, resolve_method
from vpbench.spec.recipe import Recipe
from vpbench.spec.run_spec import BackboneSpec
from vpbench.training.optim import make_optimizer, parameter_groups

CLASSES, WIDTH, DEPTH, SIZE = 7, 192, 2, 32
# Settings without which a preset made for a large backbone does not fit this small one.
FITTING = {"viapt:scaffold": {"pca_dim": 96}}
FITTING_SWIN = {"viapt": {"pca_dim": 24}, "viapt:scaffold": {"pca_dim": 32}}

VIT = partial(VisionTransformer, img_size=SIZE, patch_size=8, embed_dim=WIDTH, depth=DEPTH, num_heads=3, num_classes=0)
BACKBONES: dict[str, Callable[..., torch.nn.Module]] = {
    "vit": VIT,
    "registers": partial(VIT, reg_tokens=2),
    "clip": partial(VIT, pre_norm=True),
    "mean": partial(VIT, global_pool="avg"),
    "swin": partial(
        SwinTransformer, img_size=SIZE, patch_size=4, embed_dim=48, depths=(2, 2), num_heads=(2, 4), window_size=4, num_classes=0
    ),
}
FAMILIES = ("vit", "swin")  # of which every preset is tested; the variants see every method once


def labels() -> Iterator[str]:
    for name in method_registry().names():
        yield name
        yield from (f"{name}:{preset}" for preset in sorted(method_class(name).presets))


def backbone(name: str = "vit") -> Backbone:
    """One of ``BACKBONES``, with the same random values in every call."""
    torch.manual_seed(3)
    adapter: Backbone = adapter_for(BACKBONES[name]())
    return adapter


def fitting(label: str, name: str) -> dict[str, int] | None:
    return (FITTING_SWIN if name == "swin" else FITTING).get(label)


def build(label: str, name: str = "vit", seed: int = 0) -> PromptedModel:
    spec = resolve_method(label, fitting(label, name))
    kind = method_class(spec.name)
    adapter = backbone(name)
    torch.manual_seed(seed)
    return PromptedModel(adapter, kind(kind.Config.model_validate(spec.config), adapter.shape, CLASSES), CLASSES)


@pytest.fixture
def images() -> Tensor:
    return torch.randn(4, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))


TARGETS = torch.tensor([0, 3, 6, 2])
sweep = pytest.mark.parametrize("label", list(labels()))


def step(model: PromptedModel, images: Tensor) -> Tensor:
    optimizer = make_optimizer(model.trainable(), Recipe(optimizer="adamw", lr=1e-2))
    model.train()
    loss, _ = model.training_loss(images, TARGETS)
    loss.backward()
    optimizer.step()
    return loss.detach()


@sweep
def test_options_and_presets_are_documented(label: str) -> None:
    spec = resolve_method(label)
    method = method_class(spec.name)
    assert method.title and method.summary and method.paper
    assert method.Config.model_config["frozen"] and method.Config.model_config["extra"] == "forbid"
    for name, field in method.Config.model_fields.items():
        assert field.description and (field.json_schema_extra or {}).get("source"), f"{spec.name}.{name} lacks meaning or source"
    if spec.preset:
        preset = method.presets[spec.preset]
        assert preset.summary and preset.differences
    assert method.Config.model_validate(spec.config).model_dump(mode="json") == spec.config


def test_configurations_are_readable_without_torch() -> None:
    code = (
        "import sys; from vpbench.models.registry import method_class, method_registry; "
        "[method_class(name) for name in method_registry().names()]; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@sweep
def test_logits(label: str, images: Tensor) -> None:
    model = build(label).eval()
    logits = model(images)
    assert logits.shape == (4, CLASSES)
    assert torch.isfinite(logits).all()
    assert torch.equal(logits, model(images)), "two evaluations differ"


@sweep
def test_a_prediction_never_depends_on_its_neighbours(label: str, images: Tensor) -> None:
    model = build(label)
    for _ in range(2):  # a fitted model, with whatever statistics the method keeps
        step(model, images)
    model.eval()
    together = model(images)
    for index in range(len(images)):
        torch.testing.assert_close(model(images[index : index + 1])[0], together[index], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(model(images.flip(0)).flip(0), together, rtol=1e-4, atol=1e-4)


@sweep
def test_only_own_tensors_train_and_the_backbone_stays_bit_identical(label: str, images: Tensor) -> None:
    model = build(label)
    plain = backbone()
    reference = plain.state_dict()
    optimized = {id(tensor) for _, tensor in model.trainable()}
    assert all(tensor.requires_grad == (id(tensor) in optimized) for tensor in model.parameters())
    for _ in range(2):
        step(model, images)
    assert not model.backbone.training and not any(
        module.training for module in model.backbone.modules() if "vit" in type(module).__module__
    )
    model.scope.undo()
    state = model.backbone.state_dict()
    assert state.keys() == reference.keys()
    assert all(torch.equal(state[name], reference[name]) for name in reference)
    assert all(parameter.grad is None for parameter in model.backbone.parameters()), "memory and time went into frozen weights"
    assert torch.equal(model.backbone(images), plain(images)), "undoing left something behind"


@sweep
@pytest.mark.parametrize("decay", ["all", "not_head_bias", "matrices"])
def test_every_trainable_tensor_is_in_one_group(label: str, decay: str) -> None:
    trainable = build(label).trainable()
    grouped = [id(tensor) for group in parameter_groups(trainable, Recipe(decay=decay)) for tensor in group["params"]]  # type: ignore[arg-type, attr-defined]
    assert sorted(grouped) == sorted(id(tensor) for _, tensor in trainable)
    assert len(set(grouped)) == len(grouped)


@sweep
def test_every_trainable_tensor_receives_gradient(label: str, images: Tensor) -> None:
    model = build(label)
    for _ in range(2):  # values that start at zero may need a first step
        step(model, images)
    idle = [name for name, tensor in model.trainable() if tensor.grad is None or not tensor.grad.any()]
    assert not idle


@sweep
def test_training_repeats_bit_by_bit(label: str, images: Tensor) -> None:
    losses = []
    for _ in range(2):
        model = build(label)
        losses.append(torch.stack([step(model, images) for _ in range(3)]))
    assert torch.equal(*losses)


@sweep
def test_saved_tensors_give_the_same_logits(label: str, images: Tensor) -> None:
    model = build(label)
    for _ in range(2):
        step(model, images)
    saved = model.snapshot()
    assert all(name.split(".")[0] in ("own", "head", "backbone") for name in saved)
    other = build(label, seed=1)
    other.restore(saved)
    assert torch.equal(model.eval()(images), other.eval()(images))


@sweep
def test_fresh_values_differ_and_come_from_the_seed(label: str) -> None:
    first, again, other = build(label).snapshot(), build(label).snapshot(), build(label, seed=1).snapshot()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)
    model = build(label)
    model.reinitialise()
    assert any(not torch.equal(first[name], tensor) for name, tensor in model.snapshot().items())


def pairs() -> Iterator[tuple[str, str]]:
    """Every method, with all its presets in each family, and by itself on the family's variants."""
    for label in labels():
        for name in BACKBONES:
            if name != "vit" and (name in FAMILIES or ":" not in label):
                yield label, name


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("label", "name"), list(pairs()))
def test_other_backbones(label: str, name: str, images: Tensor) -> None:
    """The contract in one go where the tests above look at a plain ViT."""
    plain = backbone(name)
    if plain.shape.family not in method_class(label.partition(":")[0]).families:
        with pytest.raises(UnsupportedError, match=plain.shape.family):
            build(label, name)
        return
    model = build(label, name)
    losses = torch.stack([step(model, images) for _ in range(3)])
    idle = [key for key, tensor in model.trainable() if tensor.grad is None or not tensor.grad.any()]
    assert losses.isfinite().all() and not idle
    assert all(parameter.grad is None for parameter in plain.parameters())
    together = model.eval()(images)
    for index in range(len(images)):
        close(model(images[index : index + 1])[0], together[index])
    with torch.autocast("cpu", torch.bfloat16):
        assert (model(images).float() - together).abs().max() <= 0.05 * together.abs().max() + 0.05

    other = build(label, name, seed=1)
    other.restore(model.snapshot())
    assert torch.equal(other.eval()(images), together), "saved tensors give other logits"
    other.merge()
    torch.testing.assert_close(other(images), together, rtol=1e-5, atol=1e-5)

    model.scope.undo()
    state = plain.state_dict()
    assert all(torch.equal(tensor, state[key]) for key, tensor in model.backbone.state_dict().items())
    assert torch.equal(model.backbone(images), plain(images)), "undoing left something behind"


@sweep
def test_merging_keeps_the_logits(label: str, images: Tensor) -> None:
    model = build(label)
    step(model, images)
    before = model.eval()(images)
    model.merge()
    torch.testing.assert_close(model(images), before, rtol=1e-5, atol=1e-5)


@sweep
def test_bf16_autocast_is_close_to_fp32(label: str, images: Tensor) -> None:
    model = build(label).eval()
    exact = model(images)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = model(images).float()
    assert (rounded - exact).abs().max() <= 0.05 * exact.abs().max() + 0.05


@sweep
def test_counts(label: str) -> None:
    spec = resolve_method(label, FITTING.get(label))
    small = BackboneSpec(
        name="vit_tiny_patch16_224", weights="random", image_size=32, patch_size=8, mean=(0.5,) * 3, std=(0.5,) * 3
    )
    operations = count_operations(spec, small, CLASSES)
    counted, macs = operations["flops_forward"], operations["macs_fvcore"]
    assert counted and macs
    assert operations["flops_train_step"] >= counted  # type: ignore[operator]
    assert 1.8 < counted / macs < 2.2, (
        "fvcore and the meta device disagree by more than what fvcore counts beside matrix products"
    )
    counts = parameter_counts(build(label))
    assert counts["params_head"] >= WIDTH * CLASSES + CLASSES
    assert counts["params_trainable"] <= counts["params_method"] + counts["params_head"] <= counts["params_total"]
    assert counts["params_active"] <= counts["params_method"]


@pytest.mark.parametrize("label", ["vpt:shallow", "e2vpt"])
def test_operations_where_the_width_changes(label: str) -> None:
    """Counted as on a ViT: fvcore's multiply-adds stand beside twice as many operations."""
    small = BackboneSpec(
        name="swin_tiny_patch4_window7_224", weights="random", image_size=56, patch_size=4, mean=(0.5,) * 3, std=(0.5,) * 3
    )
    operations = count_operations(resolve_method(label), small, CLASSES)
    counted, macs = operations["flops_forward"], operations["macs_fvcore"]
    assert counted and macs and operations["flops_train_step"] >= counted  # type: ignore[operator]
    assert 1.8 < counted / macs < 2.2
