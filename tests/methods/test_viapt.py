"""ViaPT: the numbers of the slow reference, and invariants."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from sweeps import some
from torch import Tensor
from torch.nn import functional
from viapt_models import CLASSES, DEPTH, MODES, WIDTH, batch_of, distance, fitted, plain, same, small, train

from golden_fill import check_gradient, check_logits, fill, filled, golden_cases, golden_model, images, labels, load_golden
from vpbench.core.errors import UsageError
from vpbench.interface import BackboneShape, Context
from vpbench.methods._pca import axes_of_covariance, complement, principal_axes
from vpbench.methods.viapt import ViaPT, ViaPTConfig
from vpbench.training.checkpoint import load_state, state_of

# The slow reference's numbers


@pytest.mark.parametrize("name", golden_cases("viapt"))
def test_golden(name: str) -> None:
    golden = load_golden("viapt")
    config, case = golden["config"], golden["cases"][name]
    settings = {key: config[key] for key in ("n_dataset", "n_instance", "fusion", "first_fusion")}
    model: Any = golden_model(config, ViaPT, settings | {"pca_dim": case["m"]})
    tensors = {key: filled(key, spec["shape"], spec["scale"], spec["offset"], config) for key, spec in case["fills"].items()}
    with torch.no_grad():
        model.own.dataset.copy_(tensors["viapt.dataset"])
        for connection in range(1, config["depth"]):
            if case["m"] < config["dim"]:
                model.own.partials[connection - 1] = tensors[f"viapt.partial.{connection}"]
            if 0 < case["m"] < config["dim"]:
                model.own.mean[connection - 1] = tensors[f"viapt.mean.{connection}"]
                model.own.basis[connection - 1] = golden_basis(tensors[f"viapt.basis.{connection}"], case["m"])
    for connection, expected in case.get("basis_checks", {}).items():
        first_row = expected["V_first_row"]
        assert model.own.basis[int(connection) - 1, 0, : len(first_row)].tolist() == pytest.approx(first_row, rel=1e-4)
    instance = tensors["viapt.instance"].requires_grad_()
    batch = images(config)
    logits = model.head(model.features(batch, Context(batch, False, {"instance_prompts": instance})))
    check_logits(logits, case)
    loss = functional.cross_entropy(logits, labels(config))
    assert loss.item() == pytest.approx(case["loss"], rel=1e-4)
    torch.autograd.backward(loss)
    gradients = {"viapt.dataset": model.own.dataset.grad, "viapt.instance": instance.grad}
    gradients |= {f"head.{part}": tensor.grad for part, tensor in model.head.named_parameters()}
    if case["m"] < config["dim"]:
        gradients |= {f"viapt.partial.{index + 1}": gradient for index, gradient in enumerate(model.own.partials.grad)}
    for key, expected in case["params"].items():
        check_gradient(gradients[key], expected)


def golden_basis(values: Tensor, m: int) -> Tensor:
    q, _ = np.linalg.qr(values.numpy())
    largest = q[np.abs(q).argmax(0), np.arange(q.shape[1])]
    return torch.from_numpy(q * np.sign(largest))[:, :m]


def test_fill_is_uniform_and_reproducible() -> None:
    values = fill("images", (10_000,), 2.0, 1.0)
    assert np.array_equal(values, fill("images", (10_000,), 2.0, 1.0))
    assert -1 <= values.min() < -0.99 and 2.99 < values.max() < 3
    assert abs(values.mean() - 1) < 0.05


# Invariants


@pytest.mark.parametrize("mode", MODES)
def test_v1_nothing_retained_is_vpt_deep(mode: str) -> None:
    model, batch = fitted(n_instance=0, pca_dim=0, pca_mode=mode), batch_of(4)
    same(model(batch), plain(model, batch, model.own.dataset, *model.own.partials))


def test_v2_everything_retained_is_vpt_shallow() -> None:
    model, batch = fitted(n_instance=0, pca_dim=WIDTH), batch_of(4)
    same(model(batch), plain(model, batch, model.own.dataset))


def instance_prompts(model: Any, batch: Tensor) -> Tensor:
    """P_I of a model in evaluation mode, from its generator."""
    context = Context(batch, False)
    mean, log_sigma = model.method.gaussian(model.backbone.embed(batch), context)
    prompts: Tensor = mean + log_sigma.exp() * model.own.noise[0, 0]
    return prompts


def test_v3_everything_retained_with_instance_prompts_is_vpt_shallow_per_image() -> None:
    model, batch = fitted(pca_dim=WIDTH), batch_of(4)
    prompts = torch.cat([model.own.dataset.expand(4, -1, -1), instance_prompts(model, batch)], 1)
    same(model(batch), plain(model, batch, prompts))
    assert distance(prompts[0], prompts[1]) > 1e-6


def test_v4_nothing_retained_from_the_start_is_vpt_deep_without_generator() -> None:
    model, batch = fitted(pca_dim=0, first_fusion="pca"), batch_of(4)
    assert model.own.partials.shape == (DEPTH, 5, WIDTH)
    before = model(batch)
    same(before, plain(model, batch, *model.own.partials))
    with torch.no_grad():
        for tensor in model.own.generator.parameters():
            tensor.add_(1)
    same(before, model(batch))


def difference_in_company(model: Any, batch: Tensor) -> float:
    """Largest change of a logit between a batch, its reversal, and its images alone."""
    with torch.no_grad():
        together = model(batch)
        reverse = model(batch.flip(0)).flip(0)
        alone = torch.cat([model(image[None]) for image in batch])
    return max(distance(together, reverse), distance(together, alone))


@pytest.mark.parametrize("mode", some([mode for mode in MODES if mode != "batch"], 2))
@pytest.mark.parametrize("eval_mode", ["fixed", "multi"])
def test_v5_a_prediction_does_not_depend_on_its_neighbours(mode: str, eval_mode: str) -> None:
    assert difference_in_company(fitted(pca_mode=mode, eval_mode=eval_mode), batch_of(4)) < 1e-10


def test_v6_the_batch_s_own_basis_makes_it_depend_on_them() -> None:
    assert difference_in_company(fitted(pca_mode="batch", eval_basis="batch"), batch_of(4)) > 1e-4
    assert difference_in_company(fitted(pca_mode="batch", eval_basis="running"), batch_of(4)) < 1e-10


def test_v7_everything_is_repeatable() -> None:
    model, batch = fitted(), batch_of(4)
    assert torch.equal(model(batch), model(batch))
    assert torch.equal(fitted(eval_mode="multi", rounds=1)(batch), model(batch))
    steps = [train(small(dropout=0.1), steps=2).snapshot() for _ in range(2)]
    assert all(torch.equal(steps[0][name], steps[1][name]) for name in steps[0])


def test_v8_the_basis_is_orthonormal_sorted_and_signed() -> None:
    rows = torch.randn(200, WIDTH, dtype=torch.float64) * torch.linspace(1, 3, WIDTH)
    mean, axes = principal_axes(rows, 12)
    same(axes.mT @ axes, torch.eye(12, dtype=torch.float64))
    variances = ((rows - mean) @ axes).var(0)
    assert torch.equal(variances, variances.sort(descending=True).values)
    assert (axes.gather(0, axes.abs().argmax(0, keepdim=True)) > 0).all()
    same(axes_of_covariance(rows.T.cov(correction=0), rows.square().sum(1).mean(), 12), axes)
    _, everything = principal_axes(rows, WIDTH)
    assert distance((rows - mean) @ everything, rows) > 1e-3

    model = fitted()
    old = model.own.basis.clone()
    same(old.mT @ old, torch.eye(12, dtype=torch.float64).expand(DEPTH - 1, -1, -1))
    model.train().training_loss(batch_of(8, 7), torch.arange(8) % CLASSES)
    model.method.epoch_ended(1, 100)
    assert not torch.equal(model.own.basis, old)
    assert ((model.own.basis * old).sum(1) >= 0).all()


def test_v9_fusion_in_the_subspace_depends_on_the_span_only() -> None:
    model, batch = fitted(fusion="subspace"), batch_of(4)
    before = model(batch)
    rotation = torch.linalg.qr(torch.randn(12, 12, dtype=torch.float64)).Q
    same(complement(model.own.basis @ rotation), model.own.rest)
    same(model.own.basis.mT @ model.own.rest, torch.zeros(DEPTH - 1, 12, WIDTH - 12, dtype=torch.float64))
    model.own.basis[0] *= -1
    model.own.basis[1] = model.own.basis[1] @ rotation
    same(before, model(batch))
    same(fitted(fusion="subspace", pca_dim=WIDTH)(batch), fitted(pca_dim=WIDTH)(batch))


@pytest.mark.parametrize("mode", MODES)
def test_v10_gradients_reach_what_is_trained_and_nothing_else(mode: str) -> None:
    model = small(pca_mode=mode)
    model.training_loss(batch_of(8), torch.arange(8) % CLASSES)[0].backward()
    for name, tensor in model.trainable():
        assert tensor.grad is not None and tensor.grad.any(), name
    assert all(layer.any() for layer in model.own.partials.grad)
    assert all(tensor.grad is None for tensor in model.backbone.parameters())
    names = {name for name, _ in model.trainable()}
    assert ("own.basis" in names) == (mode == "learned")
    assert "own.mean" not in names
    assert all(not tensor.requires_grad for tensor in model.own.buffers())


@pytest.mark.parametrize("mode", ["running", "batch", "sample"])
def test_v11_identical_prompts_give_no_nan(mode: str) -> None:
    model = small(n_dataset=4, n_instance=0, pca_mode=mode)
    with torch.no_grad():
        model.own.dataset[:] = model.own.dataset[0].clone()
    model.training_loss(batch_of(1).expand(3, -1, -1, -1), torch.zeros(3, dtype=torch.long))[0].backward()
    assert all(tensor.grad.isfinite().all() for _, tensor in model.trainable() if tensor.grad is not None)


def test_v12_one_image_spans_at_most_n_minus_1_coordinates() -> None:
    outputs = torch.randn(2, 5, WIDTH, dtype=torch.float64)
    model = small(pca_mode="sample")
    context = Context(batch_of(2), False)
    fused = model.method._carried_on(0, outputs, context)
    assert (fused[..., :4].abs().amax((0, 1)) > 1e-6).all()
    assert not fused[..., 4:12].any()
    same(fused[..., 12:], model.own.partials[0].expand(2, -1, -1))
    with pytest.raises(UsageError, match="pca_dim=12"):
        small(pca_mode="sample", below_rank="error")(batch_of(2))


def test_v13_only_training_moves_the_basis_and_only_until_it_is_frozen() -> None:
    model = small(pca_freeze_epoch=2)
    bases = [model.own.basis.clone()]
    for epoch in range(4):
        model.train().training_loss(batch_of(8, epoch), torch.arange(8) % CLASSES)
        bases.append(model.own.basis.clone())
        buffers = {name: tensor.clone() for name, tensor in model.own.named_buffers()}
        model.eval()(batch_of(4))
        assert all(torch.equal(buffers[name], tensor) for name, tensor in model.own.named_buffers())
        model.method.epoch_ended(epoch, 100)
        bases.append(model.own.basis.clone())
    changed = [not torch.equal(before, after) for before, after in itertools.pairwise(bases)]
    assert changed == [True, True, False, True, False, False, False, False]

    other = small()
    other.restore(model.snapshot())
    assert torch.equal(other.eval()(batch_of(4)), model.eval()(batch_of(4)))


@pytest.mark.parametrize("freeze", [1, 3])
def test_a_checkpoint_knows_which_bases_are_fitted_and_whether_they_are_frozen(freeze: int) -> None:
    model, other, order = train(small(pca_freeze_epoch=freeze), steps=1), small(pca_freeze_epoch=freeze), torch.Generator()
    assert other.method.unfitted == {0, 1} and other.method.observing
    load_state(other, order, state_of(model, order))
    assert other.method.unfitted == set() and other.method.observing == (freeze > 1)
    before = model.own.basis.clone()
    ends = [train(each, steps=2).snapshot() for each in (model, other)]
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])
    assert torch.equal(ends[0]["own.basis"], before) == (freeze == 1)


@pytest.mark.parametrize(("epochs", "refreshes"), [(5, 1), (10, 1), (20, 2), (100, 10)])
def test_unless_set_the_basis_is_frozen_after_a_tenth_of_the_run(epochs: int, refreshes: int) -> None:
    model, changes = small(), 0
    for epoch in range(min(epochs, 12)):
        model.train().training_loss(batch_of(4, epoch), torch.arange(4) % CLASSES)
        before = model.own.basis.clone()
        model.method.epoch_ended(epoch, epochs)
        changes += not torch.equal(before, model.own.basis)
    assert changes == refreshes


@pytest.mark.sweep
def test_v14_parameter_counts() -> None:
    shape = BackboneShape(family="vit", image_size=224, patch_size=16, width=768, depth=12, heads=12, prefix=1)
    for n_dataset, n_instance, m, hidden in itertools.product((0, 5, 25), (0, 4), (0, 128, 384, 768), (8, 32)):
        if n_dataset + n_instance == 0:
            continue
        method = ViaPT(ViaPTConfig(n_dataset=n_dataset, n_instance=n_instance, pca_dim=m, gen_hidden=hidden), shape, CLASSES)
        method.build()
        generator = (768 * hidden + hidden) + (9 * hidden**2 + hidden) + (2 * 768 * hidden + 2 * 768)
        expected = n_dataset * 768 + 11 * (n_dataset + n_instance) * (768 - m) + (generator if n_instance else 0)
        assert sum(tensor.numel() for tensor in method.own.parameters()) == expected


@pytest.mark.parametrize(
    ("settings", "count"),
    [
        ({}, 74_240 + 84_544),
        ({"pca_dim": 768, "n_dataset": 10, "n_instance": 10}, 7_680 + 84_544),
        ({"pca_mode": "learned"}, 74_240 + 84_544 + 11 * 768 * 128),
        ({"first_fusion": "pca"}, 74_240 + 84_544 + 10 * 640),
        (ViaPT.presets["scaffold"].settings, 4 * 768 + 8 * 384 + 1_181_696),
    ],
)
def test_v14_parameter_counts_of_variants_on_vit_b16(settings: dict[str, Any], count: int) -> None:
    shape = BackboneShape(family="vit", image_size=224, patch_size=16, width=768, depth=12, heads=12, prefix=1)
    method = ViaPT(ViaPTConfig(**settings), shape, CLASSES)
    method.build()
    assert sum(tensor.numel() for tensor in method.own.parameters()) == count


def test_v15_without_deviation_instance_prompts_are_their_mean() -> None:
    batch, models = batch_of(4), [fitted(), fitted(eval_mode="mean")]
    assert distance(models[0](batch), models[1](batch)) > 1e-6
    prompts = []
    for model in models:
        model.method.gaussian = silent(model.method.gaussian)
        model.own.basis.copy_(models[0].own.basis)
        model.own.mean.copy_(models[0].own.mean)
        prompts.append(instance_prompts(model, batch))
    same(prompts[0][:, 0], prompts[0][:, 1])
    same(models[0](batch), models[1](batch))


def silent(gaussian: Any) -> Any:
    """The same Gaussian with a deviation of 0."""

    def without_deviation(*arguments: Any) -> tuple[Tensor, Tensor]:
        mean, log_sigma = gaussian(*arguments)
        return mean, torch.full_like(log_sigma, -torch.inf)

    return without_deviation


def test_v16_the_order_of_the_dataset_prompts_does_not_matter() -> None:
    model, batch = fitted(), batch_of(4)
    before = model(batch)
    with torch.no_grad():
        model.own.dataset.copy_(model.own.dataset[[2, 0, 1]])
        model.own.partials.copy_(model.own.partials[:, [2, 0, 1, 3, 4]])
    same(before, model(batch))
