"""Blocks that skip outputs which nothing uses: the same values and gradients, and less work."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from sweeps import case, some
from test_checkpointing import METHODS as BASIC
from tiny_vits import VARIANTS, images, tiny_vit
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from vpbench.backbones.frozen_linear import FrozenLinear, freeze_linears, onednn_linear, part
from vpbench.backbones.needed import can_skip_tokens
from vpbench.backbones.vit import ViTAdapter
from vpbench.core.errors import UnsupportedError, UsageError
from vpbench.interface import Scope
from vpbench.models.prompted import PromptedModel
from vpbench.models.registry import method_class, resolve_method

METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    **BASIC,
    "linear": ("linear", {}),
    "vpt projected": ("vpt", {"project": 8}),
    "vpt without dropout": ("vpt", {"dropout": 0.0}),
    "e2vpt shorter": ("e2vpt", {"segments": 8, "remove_masked": True}),
    "ivpt everywhere": ("ivpt", {"ar_layers": "all"}),
    "ivpt on all tokens": ("ivpt", {"ar": "all"}),
    "ivpt provp": ("ivpt", {"structure": "provp"}),
    "ivpt express": ("ivpt", {"structure": "express"}),
    "viapt as vpt": ("viapt", {"pca_dim": 0}),
    "viapt fresh": ("viapt", {"pca_dim": 8, "fresh_instance_per_layer": True}),
}
BUILDS = {name: build for name, build in VARIANTS.items() if "drop" not in name}


def model_of(label: str, build: dict[str, Any], dtype: torch.dtype = torch.float64) -> PromptedModel:
    name, options = METHODS[label]
    kind = method_class(name)
    torch.manual_seed(0)
    adapter = ViTAdapter(tiny_vit(**build))
    try:
        config = kind.Config.model_validate(resolve_method(name, options).config)
        return PromptedModel(adapter, kind(config, adapter.shape, 5), 5).to(dtype)
    except (UnsupportedError, UsageError) as error:
        pytest.skip(str(error))


def results(model: PromptedModel, x: Tensor) -> dict[str, Tensor]:
    """Logits, loss and all gradients of one step, and logits in evaluation mode."""
    model.zero_grad()
    torch.manual_seed(7)
    loss, logits = model.train().training_loss(x, torch.tensor([0, 3]))
    loss.backward()
    found = {name: tensor.grad.clone() for name, tensor in model.trainable() if tensor.grad is not None}
    with torch.no_grad():
        return {**found, "loss": loss.detach(), "logits": logits.detach(), "evaluated": model.eval()(x)}


@pytest.mark.parametrize("fused", [True, pytest.param(False, marks=pytest.mark.sweep)], ids=["fused", "explicit"])
@pytest.mark.parametrize("build", some(BUILDS.values(), 3), ids=BUILDS)
@pytest.mark.parametrize("label", [case(label) for label in METHODS])
def test_same_values_and_gradients(label: str, build: dict[str, Any], fused: bool) -> None:
    model = model_of(label, build)
    model.backbone.use_fused_attention(fused)
    x = images(model.backbone.vit).double()  # type: ignore[union-attr]
    found = results(model, x)
    model.backbone.skip_unused = False
    expected = results(model, x)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-9, atol=1e-9, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("label", some(METHODS, 5))
def test_in_single_precision(label: str) -> None:
    model = model_of(label, {}, torch.float32)
    x = images(model.backbone.vit)  # type: ignore[union-attr]
    found = results(model, x)
    model.backbone.skip_unused = False
    for name, value in results(model, x).items():
        assert (found[name] - value).abs().max() <= 1e-5 * max(1.0, float(value.abs().max())), name


def operations(model: PromptedModel, skipping: bool) -> int:
    model.backbone.skip_unused = skipping
    model.backbone.use_fused_attention(False)  # versions of torch differ in whether they count the fused one
    model.requires_grad_(False)  # without gradients the counter stumbles over views of what requires them
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        model.eval()(torch.zeros(2, 3, 32, 32, dtype=torch.float64))
    return int(counter.get_total_flops())


def test_what_is_left_of_a_forward_pass() -> None:
    """By hand, for two images that share their prompts: what the formula says, and nothing else."""
    model = model_of("vpt without dropout", {})
    images_, depth, width, heads, prompts, rest, patches = 2, 2, 48, 3, 10, 17, 16
    keys = prompts + rest

    def block() -> int:
        projections = images_ * rest * 3 * width * width + prompts * 2 * width * width
        mixing = 2 * images_ * rest * keys * width
        return 2 * (projections + mixing + images_ * rest * (1 + 8) * width * width)

    def last_block() -> int:
        """The class token's query, through the keys' weights and back through the values'; each head meets all inputs."""
        projections = images_ * 3 * width * width
        mixing = 2 * images_ * heads * keys * width
        return 2 * (projections + mixing + images_ * (1 + 8) * width * width)

    embedding, head = 2 * images_ * patches * 3 * 64 * width, 2 * images_ * width * 5
    assert operations(model, skipping=True) == embedding + (depth - 1) * block() + last_block() + head
    assert operations(model, skipping=False) > operations(model, skipping=True)


@pytest.mark.parametrize("label", ["vpt-shallow", "viapt", "ivpt provp"])
def test_prompts_that_are_used_are_computed(label: str) -> None:
    """Their last block alone is cheaper."""
    model = model_of(label, {})
    whole, skipped = operations(model, skipping=False), operations(model, skipping=True)
    assert 0.55 * whole < skipped < whole


def test_whoever_watches_a_block_sees_all_of_it() -> None:
    adapter = ViTAdapter(tiny_vit())
    block = adapter.vit.blocks[0]
    assert can_skip_tokens(block)
    handle = block.mlp.register_forward_hook(lambda *_: None)
    assert not can_skip_tokens(block)
    handle.remove()
    scope = Scope(adapter)
    scope.add_to_prompts(0, "norm1", nn.Parameter(torch.zeros(1, 48)))
    assert not can_skip_tokens(block)
    scope.undo()
    scope.replace(block.attn, "qkv", nn.Sequential(block.attn.qkv))
    assert not can_skip_tokens(block)
    scope.undo()
    assert can_skip_tokens(block)


# Frozen linear layers


@pytest.fixture
def layer() -> nn.Linear:
    torch.manual_seed(0)
    plain = nn.Linear(24, 36).requires_grad_(False)
    freeze_linears(plain)
    assert isinstance(plain, FrozenLinear) and list(plain.state_dict()) == ["weight", "bias"]
    return plain


def outputs(layer: nn.Linear, x: Tensor) -> tuple[Tensor, Tensor]:
    x = x.clone().requires_grad_()
    y = layer(x)
    y.square().sum().backward()
    assert x.grad is not None
    return y.detach(), x.grad


@pytest.mark.parametrize("shape", [(7, 24), (2, 7, 24), (1, 24)])
def test_onednn_computes_the_same(layer: Any, shape: tuple[int, ...]) -> None:
    x = torch.randn(shape)
    expected = outputs(layer, x)
    layer.kernel = "onednn"
    found = outputs(layer, x)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
    for start, stop in ((0, 12), (12, 36)):
        torch.testing.assert_close(part(layer, x, start, stop), found[0][..., start:stop], rtol=1e-5, atol=1e-5)
    assert onednn_linear(x, layer.weight, None).shape == (*shape[:-1], 36)


def test_onednn_keeps_nothing_of_the_input(layer: Any) -> None:
    layer.kernel = "onednn"
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        layer(torch.randn(5, 24, requires_grad=True))
    assert not kept


def test_cast_weights_are_kept_and_equal_autocasts(layer: Any) -> None:
    x = torch.randn(5, 24)
    plain = nn.Linear(24, 36).requires_grad_(False)
    plain.load_state_dict(layer.state_dict())
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer(x), plain(x))
        first = layer._cast(torch.bfloat16)[0]
        layer(x)
        assert layer._cast(torch.bfloat16)[0] is first
        with torch.no_grad():
            layer.weight.mul_(2)
            plain.weight.mul_(2)
        assert torch.equal(layer(x), plain(x))  # other weights, other copies


def test_a_layer_that_is_trained_is_an_ordinary_one(layer: Any) -> None:
    layer.kernel = "onednn"
    layer.bias.requires_grad_(True)
    layer(torch.randn(5, 24)).sum().backward()
    assert layer.bias.grad is not None and (layer.bias.grad == 5).all()
