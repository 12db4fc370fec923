"""ViaPT: what each option does, and options that do not fit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import ValidationError
from sweeps import some
from torch import Tensor
from torch.nn import functional
from viapt_models import CLASSES, WIDTH, CalibrationSession, batch_of, distance, fitted, same, small, train

from vpbench.core.errors import UsageError
from vpbench.interface import BackboneShape, Context
from vpbench.methods._connections import Connections
from vpbench.methods._pca import guarded, principal_axes
from vpbench.methods.viapt import ViaPT, ViaPTConfig


@pytest.mark.parametrize(
    "settings",
    some(
        [
            {**ViaPT.presets["scaffold"].settings, "pca_dim": 12, "gen_hidden": 8},
            {"pca_mode": "sample", "detach_basis": False},
            {"pca_mode": "batch", "fusion": "subspace"},
            {"pca_mode": "sample", "fusion": "subspace"},
            {"pca_mode": "random_coord", "fusion": "subspace"},
            {"fresh_instance_per_layer": True, "gen_per_prompt": True},
            {"fresh_instance_per_layer": True, "pca_dim": WIDTH, "eval_mode": "multi"},
            {"first_fusion": "pca", "partials": "shared", "order": "learned_first"},
            {"gen_input": "pixels", "gen_kernel2": 1, "pca_center": False, "kl_weight": 1e-3},
            {"n_dataset": 0, "eval_mode": "multi", "round_average": "logit"},
            {"pca_freeze_epoch": 0, "dropout": 0.1, "gen_init": "torch", "prompt_init": "normal"},
        ],
        4,
    ),
)
def test_every_option_trains_and_predicts(settings: dict[str, Any]) -> None:
    model = train(small(**settings), steps=2).eval()
    logits = model(batch_of(2))
    assert logits.shape == (2, CLASSES) and logits.isfinite().all()
    assert torch.equal(logits, model(batch_of(2)))
    assert all(tensor.grad is not None and tensor.grad.isfinite().all() for _, tensor in model.trainable())


def test_the_order_of_channels() -> None:
    outputs, context = torch.randn(2, 5, WIDTH, dtype=torch.float64), Context(batch_of(2), False)
    first = small(order="retained_first").method._carried_on(0, outputs, context)
    last = small(order="learned_first").method._carried_on(0, outputs, context)
    assert torch.equal(first[..., :12], outputs[..., :12])  # the basis before training: the first m coordinates
    assert torch.equal(torch.cat([first[..., 12:], first[..., :12]], -1), last)


def test_scores_are_centred_coordinates() -> None:
    model = fitted()
    outputs = torch.randn(2, 5, WIDTH, dtype=torch.float64)
    fused = model.method._carried_on(1, outputs, Context(batch_of(2), False))
    same(fused[..., :12], (outputs - model.own.mean[1]) @ model.own.basis[1])


def test_the_first_basis_is_that_of_the_first_batch_layer_after_layer() -> None:
    model, seen = small(pca_freeze_epoch=0), []
    carried_on = model.method._carried_on

    def spy(index: int, outputs: Tensor, context: Context) -> Tensor:
        seen.append(outputs.detach())
        fused: Tensor = carried_on(index, outputs, context)
        return fused

    model.method._carried_on = spy
    model.training_loss(batch_of(8), torch.arange(8) % CLASSES)
    for index, outputs in enumerate(seen):
        mean, axes = principal_axes(outputs.flatten(0, 1), 12)
        same(model.own.mean[index], mean[0])
        same(model.own.basis[index], axes)


def observed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, Tensor]]:
    """A list that grows by connection and prompt outputs whenever such are observed."""
    seen: list[tuple[int, Tensor]] = []
    observe = Connections.observe

    def spy(self: Connections, index: int, outputs: Tensor) -> None:
        seen.append((index, outputs.detach()))
        observe(self, index, outputs)

    monkeypatch.setattr(Connections, "observe", spy)
    return seen


def test_running_basis_is_the_pca_of_all_rows_of_the_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    model, seen = small(pca_dim=20), observed(monkeypatch)
    for seed in range(3):
        model.training_loss(batch_of(8, seed), torch.arange(8) % CLASSES)
    model.method.epoch_ended(0, 100)
    rows = torch.cat([outputs.flatten(0, 1) for index, outputs in seen if index == 1])
    assert len(rows) == 3 * 8 * 5
    mean, axes = principal_axes(rows, 20)
    torch.testing.assert_close(model.own.mean[1], mean[0], rtol=0, atol=1e-10)
    torch.testing.assert_close((model.own.basis[1] * axes).sum(0).abs(), torch.ones(20, dtype=torch.float64), rtol=0, atol=1e-6)


def test_calibration_uses_the_number_of_images_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    model, seen = small(pca_mode="fixed", calibration_images=6), observed(monkeypatch)
    model.method.prepare(CalibrationSession(model))
    assert [(index, len(outputs)) for index, outputs in seen] == [(0, 4), (0, 2), (1, 4), (1, 2)]
    before = model.own.basis.clone()
    assert torch.equal(train(model, steps=2).own.basis, before)


def test_rounds_average_probabilities_or_logits() -> None:
    batch = batch_of(3)
    for average in ("prob", "logit"):
        model = fitted(eval_mode="multi", rounds=3, round_average=average)
        rounds = torch.stack([model.head(model.features(batch, model.context(batch, round=index))) for index in range(3)])
        expected = rounds.mean(0) if average == "logit" else rounds.softmax(-1).mean(0).log()
        same(model(batch), expected)
        assert distance(rounds[0], rounds[1]) > 1e-6


def test_kl_weight_adds_the_divergence() -> None:
    model, batch, targets = small(kl_weight=0.5), batch_of(4), torch.arange(4)
    context = Context(batch, False)
    logits = model.head(model.features(batch, context))
    mean, log_sigma = context.stash["gaussian"]
    normal = torch.distributions.Normal(mean, log_sigma.exp())
    divergence = torch.distributions.kl_divergence(normal, torch.distributions.Normal(0.0, 1.0)).sum(-1).mean()
    same(model.method.loss(logits, targets, context), functional.cross_entropy(logits, targets) + 0.5 * divergence)


def test_sampled_prompts_start_at_the_scale_of_vpt() -> None:
    model = small()
    context = Context(batch_of(4), False)
    _, log_sigma = model.method.gaussian(model.backbone.embed(batch_of(4)), context)
    scale = model.backbone.shape.prompt_bound / 3**0.5
    assert float(log_sigma.detach().exp().mean()) == pytest.approx(scale, rel=0.2)


def test_a_gradient_that_is_not_finite_is_stopped() -> None:
    rows = torch.ones(2, 3, requires_grad=True)
    torch.autograd.backward((guarded(rows) * torch.tensor([1.0, torch.nan, torch.inf])).sum())
    assert rows.grad is not None and torch.equal(rows.grad, torch.tensor([[1.0, 0.0, 0.0]]).expand(2, 3))


def test_projection_stays_in_float32_under_autocast() -> None:
    model = small().float()
    outputs = torch.randn(2, 5, WIDTH, dtype=torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert model.method._carried_on(0, outputs, Context(batch_of(2), False)).dtype == torch.float32
        loss, _ = model.training_loss(batch_of(4).float(), torch.arange(4))
    torch.autograd.backward(loss)
    assert all(tensor.grad is not None and tensor.grad.isfinite().all() for _, tensor in model.trainable())


def test_one_block_has_no_connection() -> None:
    shape = BackboneShape(family="vit", image_size=32, patch_size=8, width=WIDTH, depth=1, heads=4, prefix=1)
    method = ViaPT(ViaPTConfig(pca_dim=12), shape, CLASSES)
    method.build()
    method.epoch_ended(0, 100)
    assert method.own.partials.numel() == 0


@pytest.mark.parametrize(("width", "retained"), [(768, 128), (192, 32), (384, 64), (1024, 171), (48, 8)])
def test_the_default_is_the_papers_share_of_the_width(width: int, retained: int) -> None:
    shape = BackboneShape(family="vit", image_size=32, patch_size=8, width=width, depth=2, heads=4, prefix=1)
    method = ViaPT(ViaPTConfig(), shape, CLASSES)
    method.build()
    assert method.own.basis.shape == (1, width, retained)
    assert method.own.partials.shape == (1, 10, width - retained)


def test_more_coordinates_than_the_width_are_refused() -> None:
    with pytest.raises(UsageError, match=r"pca_dim=128 .* width 48"):
        small(pca_dim=128)


@pytest.mark.parametrize(
    "settings",
    [
        {"n_dataset": 0, "n_instance": 0},
        {"gen_kernel2": 2},
        {"detach_basis": False},
        {"fusion": "subspace", "pca_mode": "learned"},
        {"fresh_instance_per_layer": True, "n_dataset": 0},
        {"pca_dim": -1},
        {"pca_axis": "tokens"},
    ],
)
def test_wrong_options_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ViaPTConfig(**settings)
