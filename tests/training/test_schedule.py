"""Learning-rate schedules and parameter groups, against the papers' own."""

from __future__ import annotations

import math

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from golden_fill import load_golden
from vpbench.spec.recipe import Recipe
from vpbench.training.optim import learning_rate, lr_factor, make_optimizer, parameter_groups

VPT = Recipe(epochs=100, schedule_step="epoch", warmup_epochs=10, warmup_from_zero=True)
INSVP = Recipe(epochs=100, warmup_fraction=0.2)


@pytest.mark.parametrize(
    ("epoch", "factor"), [(0, 0), (1, 0.1), (5, 0.5), (10, 1), (55, 0.5), (99, (1 + math.cos(math.pi * 89 / 90)) / 2)]
)
def test_vpt(epoch: int, factor: float) -> None:
    """One value per epoch, and none in the first (KMnP/vpt, src/solver/lr_scheduler.py)."""
    assert [lr_factor(VPT, 7 * epoch + step, 7) for step in range(7)] == pytest.approx([factor] * 7)


def test_vpt_ends_near_zero() -> None:
    assert lr_factor(VPT, 99, 1) == pytest.approx(3.05e-4, rel=1e-2)


def test_insvp() -> None:
    """A fifth of all iterations for warm-up, one value per iteration."""
    steps, total = 31, 3100
    factors = [lr_factor(INSVP, iteration, steps) for iteration in range(total)]
    assert factors[0] == pytest.approx(1 / (0.2 * total))
    assert factors[total // 5] == max(factors) == 1
    assert factors[3 * total // 5] == pytest.approx(0.5)
    assert 0 < factors[-1] < 1e-6
    assert factors[: total // 5] == sorted(factors[: total // 5])
    assert factors[total // 5 :] == sorted(factors[total // 5 :], reverse=True)


@pytest.mark.parametrize("fraction", [None, 0.0, 0.1, 0.3, 0.9])
@pytest.mark.parametrize("from_zero", [False, True])
@pytest.mark.parametrize("step", ["epoch", "iteration"])
@pytest.mark.parametrize("epochs", [1, 3, 10])
def test_always_between_zero_and_one(fraction: float | None, from_zero: bool, step: str, epochs: int) -> None:
    recipe = Recipe(epochs=epochs, warmup_fraction=fraction, warmup_from_zero=from_zero, schedule_step=step)  # type: ignore[arg-type]
    assert all(0 <= lr_factor(recipe, iteration, 3) <= 1 for iteration in range(3 * epochs))
    if not from_zero:
        assert lr_factor(recipe, 0, 3) > 0


def test_constant() -> None:
    recipe = Recipe(epochs=4, schedule="constant", warmup_epochs=1)
    assert [lr_factor(recipe, iteration, 2) for iteration in range(8)] == [0.5, 1, 1, 1, 1, 1, 1, 1]


def test_poly_with_a_floor_that_all_groups_share() -> None:
    """SETR's rates by iteration, as mmcv 1.x computes them."""
    expected = load_golden("setr")["data"]["poly"]
    recipe = Recipe(
        schedule="poly", poly_power=expected["power"], min_lr=expected["floor"], lr=0.001, iterations=expected["iterations"],
        batch_size=16,
    ).for_images(20_210)  # fmt: skip
    assert recipe.epochs == 127
    for rate, steps in expected["learning_rate"].items():
        for iteration, wanted in steps.items():
            factor = lr_factor(recipe, int(iteration), 1264)
            assert learning_rate(recipe, factor, float(rate) / 0.001) == pytest.approx(wanted, rel=1e-7)


def test_peak() -> None:
    assert Recipe(lr=0.5, batch_size=64, lr_reference_batch=256).peak_lr == 0.125
    assert Recipe(lr=0.5, batch_size=64).peak_lr == 0.5


def test_warmup_that_leaves_nothing_is_refused() -> None:
    with pytest.raises(ValidationError, match="leaves none of 10 epochs"):
        Recipe(epochs=10, warmup_epochs=10)


TRAINABLE = [
    ("own.prompts", nn.Parameter(torch.zeros(2, 3))),
    ("own.gate.bias", nn.Parameter(torch.zeros(3))),
    ("head.weight", nn.Parameter(torch.zeros(4, 3))),
    ("head.bias", nn.Parameter(torch.zeros(4))),
]


@pytest.mark.parametrize(
    ("decay", "decayed"),
    [
        ("all", ["own.prompts", "own.gate.bias", "head.weight", "head.bias"]),
        ("not_head_bias", ["own.prompts", "own.gate.bias", "head.weight"]),
        ("matrices", ["own.prompts", "head.weight"]),
    ],
)
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_every_tensor_in_one_group(decay: str, decayed: list[str], optimizer: str) -> None:
    recipe = Recipe(decay=decay, weight_decay=0.01, lr=0.1, momentum=0.8, optimizer=optimizer)  # type: ignore[arg-type]
    names = {id(tensor): name for name, tensor in TRAINABLE}
    made = make_optimizer(TRAINABLE, recipe)
    found = [names[id(tensor)] for group in made.param_groups for tensor in group["params"]]
    assert sorted(found) == sorted(names.values())
    assert [names[id(tensor)] for tensor in made.param_groups[0]["params"]] == decayed
    assert [group["weight_decay"] for group in made.param_groups] == [0.01, 0.0][: len(made.param_groups)]
    assert {group["lr"] for group in made.param_groups} == {0.1}
    if optimizer == "sgd":
        assert {group["momentum"] for group in made.param_groups} == {0.8}


def test_no_empty_group() -> None:
    assert len(parameter_groups(TRAINABLE, Recipe(decay="all"))) == 1
    assert len(parameter_groups(TRAINABLE[1:2], Recipe(decay="matrices"))) == 1
