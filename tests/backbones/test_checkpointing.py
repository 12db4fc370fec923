"""Blocks that are computed twice: the same gradients for less memory, in full and reduced precision, on every family."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from sweeps import case
from tiny_evas import DINOV3, ROPE, tiny_eva
from tiny_swin import tiny_swin
from tiny_vits import tiny_vit
from torch import Tensor, nn

from vpbench.backbones.base import Backbone
from vpbench.backbones.family import adapter_for
from vpbench.core.errors import UnsupportedError
from vpbench.interface import Scope
from vpbench.models.prompted import PromptedModel
from vpbench.models.registry import method_class, resolve_method

FAMILIES: dict[str, Callable[[], nn.Module]] = {
    "vit": lambda: tiny_vit(),
    "vit with registers": lambda: tiny_vit(reg_tokens=4, init_values=0.1),
    "clip": lambda: tiny_vit(pre_norm=True),
    "mean pooled": lambda: tiny_vit(global_pool="avg"),
    "eva02": lambda: tiny_eva(**ROPE),
    "dinov3": lambda: tiny_eva(**DINOV3),
    "swin": lambda: tiny_swin(),
}
families = pytest.mark.parametrize("make", FAMILIES.values(), ids=FAMILIES)
precisions = pytest.mark.parametrize("precision", ["fp32", "bf16"])
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "vpt": ("vpt", {}),
    "vpt-shallow": ("vpt", {"deep": False}),
    "e2vpt": ("e2vpt", {"segments": 8}),
    "insvp": ("insvp", {}),
    "viapt": ("viapt", {"pca_dim": 8}),
    "ivpt": ("ivpt", {}),
}


def prompted(make: Callable[[], nn.Module], label: str) -> PromptedModel:
    name, options = METHODS[label]
    kind = method_class(name)
    config = kind.Config.model_validate(resolve_method(name, options).config)
    torch.manual_seed(0)
    adapter = adapter_for(make())
    return PromptedModel(adapter, kind(config, adapter.shape, 5), 5)


def gradients(model: PromptedModel, precision: str) -> dict[str, Tensor]:
    x, targets = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1)), torch.tensor([0, 3])
    model.zero_grad()
    torch.manual_seed(7)  # of whatever the method samples
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        loss, logits = model.training_loss(x, targets)
    loss.backward()
    found = {name: tensor.grad.clone() for name, tensor in model.trainable() if tensor.grad is not None}
    assert logits.isfinite().all() and loss.dtype == torch.float32
    return found | {"loss": loss.detach(), "random": torch.rand(3)}


@families
@precisions
@pytest.mark.parametrize("method", [case(method, always=("vpt", "ivpt")) for method in METHODS])
def test_gradients_are_identical(make: Callable[[], nn.Module], precision: str, method: str) -> None:
    try:
        model = prompted(make, method)
    except UnsupportedError as error:
        pytest.skip(str(error))
    expected = gradients(model, precision)
    assert any(gradient.any() for name, gradient in expected.items() if name.startswith("own."))
    calls = count_blocks(model.backbone)
    model.backbone.checkpoint_blocks(True)
    found = gradients(model, precision)
    assert calls[-1] == 2 * model.backbone.shape.depth  # each block once more, in the backward pass
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], gradient) for name, gradient in expected.items())
    model.backbone.checkpoint_blocks(False)
    gradients(model, precision)
    assert calls[-1] == 3 * model.backbone.shape.depth


def count_blocks(backbone: Backbone) -> list[int]:
    """How often a block was run so far, whole or not, in the last place of a list that grows."""
    calls, running = [0], [False]

    def counted(run: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any) -> Any:
            if running[0]:  # the one form falls back to the other
                return run(*given)
            calls.append(calls[-1] + 1)
            running[0] = True
            try:
                return run(*given)
            finally:
                running[0] = False

        return call

    for name in ("run_block", "run_needed"):
        setattr(backbone, name, counted(getattr(backbone, name)))
    return calls


@families
@precisions
def test_dropout_draws_the_same_twice(make: Callable[[], nn.Module], precision: str) -> None:
    """What a method draws at random inside a block is drawn again alike in the backward pass."""
    backbone = adapter_for(make())
    scope, values = Scope(backbone), nn.Parameter(torch.randn(2, 2, backbone.shape.heads, 3, backbone.shape.head_width))

    def provide() -> tuple[Tensor, Tensor]:
        dropped = nn.functional.dropout(values, 0.5)
        return dropped[0, 0], dropped[0, 1]

    backbone.prompt_keys_values(scope, 0, provide)
    x, found = torch.randn(2, 3, 32, 32), []
    for on in (False, True):
        backbone.checkpoint_blocks(on)
        values.grad = None
        torch.manual_seed(3)
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            backbone(x).float().sum().backward()
        assert values.grad is not None and values.grad.any()
        found.append(values.grad)
    assert torch.equal(*found)


@families
def test_fewer_activations_are_kept(make: Callable[[], nn.Module]) -> None:
    backbone, kept = adapter_for(make()), []
    x = torch.randn(2, 3, 32, 32, requires_grad=True)
    for on in (False, True):
        backbone.checkpoint_blocks(on)
        sizes: list[int] = []

        def note(tensor: Tensor, sizes: list[int] = sizes) -> Tensor:
            sizes.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            backbone(x)
        kept.append(sum(sizes))
    assert kept[1] < kept[0] / 2


@pytest.mark.parametrize("make", [FAMILIES["vit"], FAMILIES["eva02"]], ids=["vit", "eva02"])
def test_watching_keeps_nothing_in_the_backward_pass(make: Callable[[], nn.Module]) -> None:
    backbone = adapter_for(make())
    backbone.checkpoint_blocks(True)
    row = Scope(backbone).watch_class_attention()
    x = torch.randn(2, 3, 32, 32, requires_grad=True)
    tokens = backbone.embed(x)
    for block in range(2):
        tokens = backbone.block(block, tokens)
        assert row(block).shape[:2] == (2, 3)
    backbone.pool(tokens).sum().backward()
    assert x.grad is not None
    for block in range(2):
        with pytest.raises(KeyError):
            row(block)
    assert not backbone.recomputing


@families
def test_without_gradients_nothing_is_repeated(make: Callable[[], nn.Module]) -> None:
    backbone = adapter_for(make())
    x = torch.randn(2, 3, 32, 32)
    expected = backbone(x)
    backbone.checkpoint_blocks(True)
    calls = count_blocks(backbone)
    with torch.no_grad():
        assert torch.equal(backbone(x), expected)
    assert calls[-1] == backbone.shape.depth
