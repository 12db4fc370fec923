"""What every method must do, swept over the registry and over families of backbones: a new method is tested by existing.

A sweep must stay cheap, since every method that is added pays for it. So a method is built and trained once per backbone
(:class:`Fitted`), and the tests of that pair, which follow each other, look at the same trained model. Costs about a second
per method and preset; a new promise belongs here only if it reads what is there already or takes a few forward passes more.
"""

from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache, lru_cache, partial
from typing import Any

import pytest
import torch
from sweeps import FEW, case, marks, some
from timm.models import SwinTransformer, VisionTransformer, register_model
from torch import Tensor

from vpbench.backbones.base import Backbone
from vpbench.backbones.family import adapter_for
from vpbench.core.errors import UnsupportedError
from vpbench.measure.operations import count_operations
from vpbench.measure.size import parameter_counts
from vpbench.models.build import needs_classifier
from vpbench.models.prompted import PromptedModel
from vpbench.models.registry import method_class, method_registry, resolve_method
from vpbench.spec.recipe import Recipe
from vpbench.spec.run_spec import BackboneSpec
from vpbench.training.optim import make_optimizer, parameter_groups

CLASSES, WIDTH, DEPTH, SIZE = 7, 192, 2, 32
SOURCE_CLASSES = 24  # of the classifier that a backbone was pretrained with
STEPS = 2  # of training: values that start at zero may need a first step before others receive gradient
# Settings without which a preset made for a large backbone does not fit this small one, or a test would download a file.
FITTING: dict[str, dict[str, Any]] = {
    "viapt:scaffold": {"pca_dim": 96}, "dam_vp:released": {"pad": 4}, "sidetune": {"weights": "random"},
    "self_prompt:one-image": {"prompt_length": 8}, "self_prompt:shallow": {"prompt_length": 8},
}  # fmt: skip
FITTING_SWIN = FITTING | {"viapt:scaffold": {"pca_dim": 32}}

VIT = partial(VisionTransformer, img_size=SIZE, patch_size=8, embed_dim=WIDTH, depth=DEPTH, num_heads=3, num_classes=0)
BACKBONES: dict[str, Callable[..., torch.nn.Module]] = {
    "vit": VIT,
    "registers": partial(VIT, reg_tokens=2),
    "clip": partial(VIT, pre_norm=True),
    "mean": partial(VIT, global_pool="avg"),
    "swin": partial(
        SwinTransformer, img_size=SIZE, patch_size=4, embed_dim=96, depths=(2, 2), num_heads=(3, 6), window_size=4, num_classes=0
    ),
}
# Presets that repeat a released baseline whose tensors start where most of them never receive a gradient.
STUCK = {"adapter:zero"}
FAMILIES = ("vit", "swin")


def labels() -> Iterator[str]:
    for name in method_registry().names():
        yield name
        yield from (f"{name}:{preset}" for preset in sorted(method_class(name).presets))


@cache
def original(name: str, label: str = "linear") -> Backbone:
    """One of ``BACKBONES``, with a classifier of its own where the method asks for one; nobody may change it."""
    torch.manual_seed(3)
    adapter: Backbone = adapter_for(BACKBONES[name]())
    if needs_classifier(resolve_method(label)):
        adapter.set_source_classifier(torch.nn.Linear(adapter.feature_width, SOURCE_CLASSES))
    return adapter


def backbone(name: str = "vit", label: str = "linear") -> Backbone:
    """One of ``BACKBONES``, with the same random values in every call."""
    return copy.deepcopy(original(name, label))


def fitting(label: str, name: str) -> dict[str, Any] | None:
    return (FITTING_SWIN if name == "swin" else FITTING).get(label)


def build(label: str, name: str = "vit", seed: int = 0) -> PromptedModel:
    spec = resolve_method(label, fitting(label, name))
    kind = method_class(spec.name)
    adapter = backbone(name, label)
    torch.manual_seed(seed)
    return PromptedModel(adapter, kind(kind.Config.model_validate(spec.config), adapter.shape, CLASSES), CLASSES)


IMAGES = torch.randn(4, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
TARGETS = torch.tensor([0, 3, 6, 2])
NAMES = method_registry().names()
sweep = pytest.mark.parametrize("label", [case(label, always=NAMES) for label in labels()])


def step(model: PromptedModel, images: Tensor) -> Tensor:
    optimizer = make_optimizer(model.trainable(), Recipe(optimizer="adamw", lr=1e-2))
    optimizer.zero_grad()  # limited gradients of two steps can cancel
    model.train()
    loss, _ = model.training_loss(images, TARGETS)
    loss.backward()
    optimizer.step()
    return loss.detach()


class Fitted:
    """A method after ``STEPS`` steps on a backbone, twice from the same seed, and once more as it is built from another seed.

    Attributes:
        model: trained, in evaluation mode; tests leave it as it is.
        fresh: its own tensors before training.
        losses: one per step.
        idle: names of its trainable tensors without gradient in the last step.
        training: names of the backbone's modules that were in training mode then.
        logits: of ``IMAGES``.
    """

    def __init__(self, label: str, name: str) -> None:
        self.label, self.name = label, name
        self.model = model = build(label, name)
        self.fresh = model.snapshot()
        self.losses = torch.stack([step(model, IMAGES) for _ in range(STEPS)])
        self.idle = [key for key, tensor in model.trainable() if tensor.grad is None or not tensor.grad.any()]
        own = {id(module) for module in model.own.modules()}
        own |= {id(module) for module in model.backbone.modules() if type(module).__module__.startswith("peft.")}
        self.training = [key for key, module in model.backbone.named_modules() if module.training and id(module) not in own]
        self.logits = model.eval()(IMAGES).detach()


@lru_cache(maxsize=2)  # tests of one pair follow each other
def fitted_once(label: str, name: str) -> Fitted:
    return Fitted(label, name)


def pairs() -> Iterator[Any]:
    """Every method on all backbones that it works on, and its presets on the first; each method on the first always runs."""
    for label in labels():
        for name in BACKBONES:
            works = original(name).shape.family in method_class(label.partition(":")[0]).families
            if works and (name == "vit" or ":" not in label):
                always = {"vit": NAMES, "swin": {*FEW, "ivpt", "lora"}}.get(name, ("vpt", "ivpt"))
                yield pytest.param((label, name), id=f"{label}-{name}", marks=marks(label, always))


def refused() -> Iterator[tuple[str, str]]:
    """Every method and one backbone of each family that it does not work on."""
    for label in method_registry().names():
        for name in FAMILIES:
            if original(name).shape.family not in method_class(label).families:
                yield label, name


@pytest.fixture(scope="module", params=list(pairs()))  # by this scope, pytest lets the tests of a pair follow each other
def fitted(request: pytest.FixtureRequest) -> Fitted:
    return fitted_once(*request.param)


def close(found: Tensor, expected: Tensor, tolerance: float = 1e-4) -> None:
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


def different(first: dict[str, Tensor], second: dict[str, Tensor]) -> list[str]:
    """Names of tensors that are not bit-identical."""
    assert first.keys() == second.keys()
    return [name for name in first if not torch.equal(first[name], second[name])]


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


@pytest.mark.parametrize(("label", "name"), list(refused()))
def test_families_that_a_method_does_not_work_on(label: str, name: str) -> None:
    with pytest.raises(UnsupportedError, match=original(name).shape.family):
        build(label, name)


def test_logits(fitted: Fitted) -> None:
    assert fitted.logits.shape == (4, CLASSES)
    assert fitted.losses.isfinite().all() and fitted.logits.isfinite().all()
    assert torch.equal(fitted.model(IMAGES), fitted.logits), "two evaluations differ"


def test_a_prediction_never_depends_on_its_neighbours(fitted: Fitted) -> None:
    for index in range(len(IMAGES)):
        close(fitted.model(IMAGES[index : index + 1])[0], fitted.logits[index])
    close(fitted.model(IMAGES.flip(0)).flip(0), fitted.logits)


def test_every_trainable_tensor_receives_gradient(fitted: Fitted) -> None:
    assert bool(fitted.idle) == (fitted.label in STUCK), fitted.idle


def test_only_own_tensors_require_gradient_and_the_backbone_stays_in_evaluation_mode(fitted: Fitted) -> None:
    optimized = {id(tensor) for _, tensor in fitted.model.trainable()}
    assert all(tensor.requires_grad == (id(tensor) in optimized) for tensor in fitted.model.parameters())
    assert not fitted.training


def test_every_trainable_tensor_is_in_one_group(fitted: Fitted) -> None:
    trainable = fitted.model.trainable()
    for decay in ("all", "not_head_bias", "matrices"):
        groups = parameter_groups(trainable, Recipe(decay=decay))  # type: ignore[arg-type]
        grouped = [id(tensor) for group in groups for tensor in group["params"]]  # type: ignore[attr-defined]
        assert sorted(grouped) == sorted(id(tensor) for _, tensor in trainable)
        assert len(set(grouped)) == len(grouped)


def test_bf16_autocast_is_close_to_fp32(fitted: Fitted) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        rounded = fitted.model(IMAGES).float()
    assert (rounded - fitted.logits).abs().max() <= 0.05 * fitted.logits.abs().max() + 0.05


def test_saved_and_merged_tensors_give_the_same_logits(fitted: Fitted) -> None:
    """In a model with other values, of another seed and then drawn once more."""
    saved = fitted.model.snapshot()
    assert all(name.split(".")[0] in ("own", "head", "backbone") for name in saved)
    untouched = torch.Generator().manual_seed(1).get_state()
    other = build(fitted.label, fitted.name, seed=1)
    first = other.snapshot()
    if not torch.equal(torch.get_rng_state(), untouched):  # else all initial values are constants
        assert different(first, fitted.fresh), "initial values do not come from the seed"
        other.reinitialise()
        assert different(other.snapshot(), first), "initial values are not drawn again"
    other.restore(saved)
    assert torch.equal(other.eval()(IMAGES), fitted.logits)
    other.merge()
    close(other(IMAGES), fitted.logits, 1e-5)


def test_training_repeats_bit_by_bit_and_leaves_the_backbone_as_it_was(fitted: Fitted) -> None:
    model, plain = build(fitted.label, fitted.name), original(fitted.name, fitted.label)
    assert not different(model.snapshot(), fitted.fresh)
    losses = torch.stack([step(model, IMAGES) for _ in range(STEPS)])
    assert torch.equal(losses, fitted.losses)
    assert not different(model.snapshot(), fitted.model.snapshot())
    model.scope.undo()
    assert not different(model.backbone.state_dict(), plain.state_dict())
    assert all(parameter.grad is None for parameter in model.backbone.parameters()), "memory and time went into frozen weights"
    assert torch.equal(model.backbone(IMAGES), plain(IMAGES)), "undoing left something behind"


def sized(name: str, named: dict[str, Any]) -> torch.nn.Module:
    """Built as ``timm.create_model`` asks for it, which also says where pretrained weights are."""
    return BACKBONES[name](**{key: named[key] for key in ("img_size", "patch_size", "num_classes")})


@register_model
def vpbench_contract_vit(**named: Any) -> torch.nn.Module:
    return sized("vit", named)


@register_model
def vpbench_contract_swin(**named: Any) -> torch.nn.Module:
    return sized("swin", named)


def small(name: str) -> BackboneSpec:
    """One of ``FAMILIES`` as a run names its backbone."""
    patch = 4 if name == "swin" else 8
    return BackboneSpec(
        name=f"vpbench_contract_{name}", weights="random", image_size=SIZE, patch_size=patch, mean=(0.5,) * 3, std=(0.5,) * 3
    )


def check_operations(label: str, name: str) -> None:
    """On the meta device; fvcore's multiply-adds stand beside twice as many operations."""
    operations = count_operations(resolve_method(label, fitting(label, name)), small(name), CLASSES)
    counted, macs = operations["flops_forward"], operations["macs_fvcore"]
    assert counted and macs
    assert operations["flops_train_step"] >= counted  # type: ignore[operator]
    assert 1.8 < counted / macs < 2.2, (
        "fvcore and the meta device disagree by more than what fvcore counts beside matrix products"
    )


@pytest.mark.parametrize("label", [case(label) for label in labels()])
def test_counts(label: str) -> None:
    if (
        ":" in label and label != "peft:loha"
    ):  # whose Hadamard products fvcore does not count; tests/measure/test_operations.py has the methods themselves
        check_operations(label, "vit")
    model = build(label)
    counts = parameter_counts(model)
    if not isinstance(model.head, torch.nn.Identity):  # of a method that maps the labels of the backbone's own classifier
        assert counts["params_head"] >= min(WIDTH, SOURCE_CLASSES) * CLASSES + CLASSES
    assert counts["params_trainable"] <= counts["params_method"] + counts["params_head"] <= counts["params_total"]
    assert counts["params_active"] <= counts["params_method"]


@pytest.mark.parametrize("label", some(["vpt:shallow", "e2vpt"], 1))
def test_operations_where_the_width_changes(label: str) -> None:
    """Counted as on a ViT."""
    check_operations(label, "swin")
