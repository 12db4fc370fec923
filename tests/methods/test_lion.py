"""LION's stand-in: fixed points and their gradients against closed forms, identity at the start, pruning, counts."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from sweeps import some
from timm.models import VisionTransformer
from torch import Tensor

from vpbench.backbones.vit import ViTAdapter
from vpbench.measure.size import parameter_counts
from vpbench.methods._equilibrium import anderson, equilibrium, iterate
from vpbench.methods.lion import LION
from vpbench.models.prompted import PromptedModel

SOLVERS: dict[str, Callable[..., Tensor]] = {
    "iteration": partial(iterate, steps=400),
    "anderson": partial(anderson, steps=40, memory=5),
}


def contraction(size: int = 6) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    matrix = torch.randn(size, size, dtype=torch.double)
    return 0.9 * matrix / torch.linalg.matrix_norm(matrix, 2), torch.randn(3, size, dtype=torch.double)


def tiny(**options: Any) -> PromptedModel:
    torch.manual_seed(0)
    adapter = ViTAdapter(VisionTransformer(img_size=32, patch_size=8, embed_dim=48, depth=2, num_heads=4, num_classes=0).double())
    return PromptedModel(adapter, LION(LION.Config(output_width=8, **options), adapter.shape, 5), 5).double()


def randomise(model: PromptedModel) -> PromptedModel:
    torch.manual_seed(1)
    with torch.no_grad():
        for each in model.own.parameters():
            each.normal_()
    return model


X = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0), dtype=torch.double)


@pytest.mark.parametrize("solver", SOLVERS)
def test_fixed_point_and_gradient_of_a_linear_map(solver: str) -> None:
    """z = A z + x has z = (I - A)^-1 x, and its gradient goes through that inverse."""
    matrix, x = contraction()
    inverse = torch.linalg.inv(torch.eye(6, dtype=torch.double) - matrix)
    given, weight = x.clone().requires_grad_(), matrix.clone().requires_grad_()
    found = equilibrium(lambda z: z @ weight.T + given, given, SOLVERS[solver])
    torch.testing.assert_close(found, x @ inverse.T, rtol=1e-6, atol=1e-6)
    cotangent = torch.randn(3, 6, dtype=torch.double)
    found.backward(cotangent)
    back = cotangent @ inverse
    torch.testing.assert_close(given.grad, back, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(weight.grad, back.T @ (x @ inverse.T), rtol=1e-5, atol=1e-5)


def test_anderson_needs_fewer_steps() -> None:
    matrix, x = contraction()
    expected = torch.linalg.solve(torch.eye(6, dtype=torch.double) - matrix, x.T).T
    step = lambda z: z @ matrix.T + x  # noqa: E731
    accelerated = (anderson(step, x, 10, 5) - expected).norm()
    assert accelerated < 0.02 * (iterate(step, x, 10) - expected).norm()


def test_anderson_stays_at_a_fixed_point() -> None:
    x = torch.randn(2, 4)
    assert torch.allclose(anderson(lambda z: z, x, 5, 3), x)


@pytest.mark.parametrize("solver", some(["anderson", "iteration"], 1))
def test_gradients_are_those_of_differences(solver: str) -> None:
    model = randomise(tiny(solver=solver, steps=60)).eval()
    targets = torch.tensor([0, 1, 2])

    def loss() -> Tensor:
        return torch.nn.functional.cross_entropy(model(X), targets)

    loss().backward()
    for name, parameter in model.own.named_parameters():
        index = parameter.grad.abs().argmax()  # type: ignore[union-attr]
        with torch.no_grad():
            values = parameter.view(-1)
            before = values[index].clone()
            values[index] = before + 1e-5
            above = loss()
            values[index] = before - 1e-5
            slope = (above - loss()) / 2e-5
            values[index] = before
        torch.testing.assert_close(parameter.grad.view(-1)[index], slope, rtol=1e-4, atol=1e-8, msg=name)  # type: ignore[union-attr]


def test_both_solvers_find_the_fixed_point() -> None:
    model = randomise(tiny(steps=40))
    other = tiny(solver="iteration", steps=400)
    other.restore(model.snapshot())
    torch.testing.assert_close(model.eval()(X), other.eval()(X), rtol=1e-6, atol=1e-6)


def test_it_starts_as_the_plain_model() -> None:
    model = tiny().eval()
    torch.testing.assert_close(model(X), model.head(model.backbone.vit(X)))


def test_blends_share_the_fixed_point_out() -> None:
    model = randomise(tiny(input_blend=0.0, output_blend=0.0)).eval()
    torch.testing.assert_close(model(X), model.head(model.backbone.vit(X)))
    assert not torch.allclose(randomise(tiny(output_blend=0.0)).eval()(X), model(X))
    assert not torch.allclose(randomise(tiny(input_blend=0.0)).eval()(X), model(X))


def test_weights_below_the_threshold_fade_and_get_no_gradient() -> None:
    model, epochs = randomise(tiny(threshold=0.5, prune_after=0.5)), 6
    own = model.own.output
    small = own.W1.abs() < 0.5 * own.W1.abs().mean()
    fades = []
    for epoch in range(epochs):
        model.method.epoch_ended(epoch, epochs)
        fades.append(float(own.fade))
    assert fades == pytest.approx([1, 1, 1, 0.5, 0, 0])
    assert small.any() and torch.equal(own.critical_W1, ~small)
    model.training_loss(X, torch.tensor([0, 1, 2]))[0].backward()
    assert not own.W1.grad[small].any() and own.W1.grad[~small].any()
    before = model.eval()(X)
    pruned = sum(int((~mask).sum()) for name, mask in model.own.named_buffers() if "critical" in name)
    assert model.method.active_parameters() == sum(each.numel() for each in model.own.parameters()) - pruned
    with torch.no_grad():
        own.W1[small] = 0
    torch.testing.assert_close(model(X), before)


def test_count_on_vit_b16(vit_b16: ViTAdapter) -> None:
    with torch.device("meta"):
        model = PromptedModel(vit_b16, LION(LION.Config(), vit_b16.shape, 100), 100)
    assert parameter_counts(model)["params_method"] == 115 + 99_136
