"""Parameter groups with rates and decays of their own, moving averages, stochastic depth."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from four_blocks import vpbench_four_blocks
from pydantic import ValidationError
from timm.optim import param_groups_layer_decay
from torch import nn

from vpbench.core.errors import UsageError
from vpbench.spec.recipe import ParameterGroup, Recipe
from vpbench.training.ema import MovingAverage
from vpbench.training.fit import Trainer
from vpbench.training.optim import backbone_depths, make_optimizer, parameter_groups

NAMES = ("own.prompts", "backbone.blocks.0.norm1.bias", "head.weight", "head.bias")
MakeTrainer = Callable[..., Trainer]


def tensors() -> list[tuple[str, nn.Parameter]]:
    return [(name, nn.Parameter(torch.ones(2, 2) if "bias" not in name else torch.ones(2))) for name in NAMES]


def settings(recipe: Recipe) -> dict[str, tuple[float, float]]:
    """Factor on the rate and weight decay of every tensor."""
    trainable = tensors()
    names = {id(parameter): name for name, parameter in trainable}
    return {
        names[id(parameter)]: (group["lr_scale"], group["weight_decay"])
        for group in parameter_groups(trainable, recipe)
        for parameter in group["params"]
    }


def test_groups() -> None:
    groups = (ParameterGroup(match="head.*", lr_scale=10), ParameterGroup(match="*.bias", weight_decay=0.0, lr_scale=2))
    found = settings(Recipe(weight_decay=0.1, decay="not_head_bias", groups=groups))
    assert found == {
        "own.prompts": (1.0, 0.1),
        "backbone.blocks.0.norm1.bias": (2.0, 0.0),
        "head.weight": (10.0, 0.1),
        "head.bias": (10.0, 0.0),  # the first group that fits counts; its decay is the recipe's
    }
    assert settings(Recipe(weight_decay=0.1, decay="matrices"))["backbone.blocks.0.norm1.bias"] == (1.0, 0.0)


def test_a_group_of_nothing() -> None:
    recipe = Recipe(groups=(ParameterGroup(match="heads.*"),))
    with pytest.raises(UsageError, match=r"no trained tensor is called heads\.\*"):
        make_optimizer(tensors(), recipe)


def test_rates_of_groups_reach_the_optimizer(make_trainer: MakeTrainer) -> None:
    """With SGD, a step of a tensor whose rate is 0 is none, and others move as without groups."""

    def after(**recipe: Any) -> dict[str, torch.Tensor]:
        trainer = make_trainer("vpt", **{"optimizer": "sgd", "lr": 0.1, **recipe})
        before = trainer.snapshot()
        trainer.fit()
        return {name: tensor - before[name] for name, tensor in trainer.snapshot().items()}

    frozen = after(groups=({"match": "own.*", "lr_scale": 0.0},))
    assert not frozen["own.prompts"].any() and frozen["head.weight"].any()
    scaled, plain = after(groups=({"match": "*", "lr_scale": 0.5},)), after(lr=0.05)
    assert all(torch.equal(scaled[name], plain[name]) for name in plain)


def test_moving_average() -> None:
    values = [torch.zeros(3), torch.zeros(2)]
    average = MovingAverage(values, 0.9)
    for step in (1.0, 2.0):
        for value in values:
            value.fill_(step)
        average.update()
    expected = 0.9 * (0.1 * 1) + 0.1 * 2
    with average.applied():
        torch.testing.assert_close(values[0], torch.full((3,), expected))
    assert values[1].eq(2).all()
    average.apply()
    torch.testing.assert_close(values[1], torch.full((2,), expected))
    resumed = MovingAverage(values, 0.9, average.values)
    assert all(torch.equal(one, other) for one, other in zip(resumed.values, average.values))


@pytest.mark.parametrize("selection", ["last", "best_val"])
def test_training_ends_with_the_average(make_trainer: MakeTrainer, selection: str) -> None:
    """A decay of nearly one leaves the initial values; one of zero is off."""
    still = make_trainer("vpt", ema=0.999999, selection=selection)
    before = still.snapshot()
    still.fit()
    for name, tensor in still.snapshot().items():
        torch.testing.assert_close(tensor, before[name], rtol=0, atol=1e-4)
    moved = make_trainer("vpt", selection=selection)
    moved.fit()
    assert (moved.snapshot()["head.weight"] - before["head.weight"]).abs().max() > 1e-3


def test_stochastic_depth_changes_training_and_no_evaluation(make_trainer: MakeTrainer) -> None:
    trainer, plain = (make_trainer("vpt", drop_path=rate) for rate in (0.5, 0.0))
    assert trainer.validate() == plain.validate()
    trainer.fit()
    plain.fit()
    assert trainer.first_losses != plain.first_losses
    assert trainer.validate() == trainer.validate()


def test_layer_decay_is_timms(make_trainer: MakeTrainer) -> None:
    """Every tensor of the backbone has the rate that timm's own parameter groups give it, and the head the full one."""
    trainer = make_trainer("full", layer_decay=0.5)
    model, depths = trainer.model, backbone_depths(trainer.model, trainer.spec.recipe)
    with torch.device("meta"):
        plain = vpbench_four_blocks(num_classes=3)
    wanted = {
        id(parameter): group["lr_scale"]
        for group in param_groups_layer_decay(plain, layer_decay=0.5)
        for parameter in group["params"]
    }
    expected = {name: wanted[id(parameter)] for name, parameter in plain.named_parameters()}
    names = {id(parameter): name.removeprefix("backbone.") for name, parameter in model.trainable()}
    groups = parameter_groups(model.trainable(), trainer.spec.recipe, depths)
    found = {names[id(parameter)]: group["lr_scale"] for group in groups for parameter in group["params"]}
    assert found == expected
    trainer.fit()


def test_layer_decay_of_a_method_that_trains_nothing_in_the_backbone(make_trainer: MakeTrainer) -> None:
    with pytest.raises(UsageError, match=r"recipe\.layer_decay is for what is trained in the backbone, and .* nothing there"):
        make_trainer("vpt", layer_decay=0.5).fit()


def test_betas() -> None:
    assert make_optimizer(tensors(), Recipe(optimizer="adamw", betas=(0.8, 0.9))).defaults["betas"] == (0.8, 0.9)
    assert make_optimizer(tensors(), Recipe(optimizer="adamw")).defaults["betas"] == (0.9, 0.999)
    with pytest.raises(ValidationError, match="less than 1"):
        Recipe(betas=(0.9, 1.0))


def test_augmented_training(make_trainer: MakeTrainer) -> None:
    """Linear probing of augmented images: no cached activations, and the same numbers again."""
    settings = {"auto_augment": "rand-m9-mstd0.5-inc1", "random_erasing": 0.5, "repeats": 2, "epochs": 2}
    first, again = (make_trainer("linear", **settings) for _ in range(2))
    assert not first._inputs.caches_activations(first.data.train)
    first.fit()
    again.fit()
    assert first.first_losses == again.first_losses and len(first.first_losses) == 5
    plain = make_trainer("linear", epochs=2)
    plain.fit()
    assert plain.first_losses != first.first_losses


def test_new_fields_leave_run_ids_alone() -> None:
    later = {"drop_path", "ema", "groups", "betas", "layer_decay", "auto_augment", "random_erasing", "repeats"}
    assert not later & Recipe().identity().keys()
    assert (
        later
        <= Recipe(
            drop_path=0.1,
            ema=0.9,
            groups=({"match": "*"},),
            betas=(0.9, 0.99),
            layer_decay=0.9,
            auto_augment="v0",
            random_erasing=0.1,
            repeats=2,
        )
        .identity()
        .keys()
    )  # type: ignore[arg-type]
    assert Recipe(ema=0.9).identity()["ema"] == 0.9
    assert Recipe(drop_path=0.1).identity() != Recipe().identity()
