"""Optimizer, parameter groups and learning-rate schedule of a recipe."""

from __future__ import annotations

import math

import torch
from torch import nn

from vpbench.spec.recipe import Recipe


def parameter_groups(trainable: list[tuple[str, nn.Parameter]], recipe: Recipe) -> list[dict[str, object]]:
    """Every trainable tensor in exactly one of at most two groups, with and without weight decay.

    Args:
        trainable: names (``own.…``, ``head.…``) and tensors, as of ``PromptedModel.trainable``.
        recipe: its ``decay`` says which tensors decay.
    """

    def decays(name: str, parameter: nn.Parameter) -> bool:
        if recipe.decay == "matrices":
            return parameter.ndim > 1
        return recipe.decay == "all" or not (name.startswith("head.") and name.endswith("bias"))

    decayed = [parameter for name, parameter in trainable if decays(name, parameter)]
    plain = [parameter for name, parameter in trainable if not decays(name, parameter)]
    groups: list[dict[str, object]] = [
        {"params": decayed, "weight_decay": recipe.weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def make_optimizer(trainable: list[tuple[str, nn.Parameter]], recipe: Recipe) -> torch.optim.Optimizer:
    """The recipe's optimizer over the trainable tensors."""
    groups = parameter_groups(trainable, recipe)
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=recipe.peak_lr)
    return torch.optim.SGD(groups, lr=recipe.peak_lr, momentum=recipe.momentum)


def lr_factor(recipe: Recipe, iteration: int, iterations_per_epoch: int) -> float:
    """Share of the peak learning rate at an iteration (from 0); see :class:`Recipe` for the formula."""
    if recipe.schedule_step == "epoch":
        position, total = iteration // iterations_per_epoch, recipe.epochs
        warmup = recipe.warmup_epochs
    else:
        position, total = iteration, recipe.epochs * iterations_per_epoch
        warmup = recipe.warmup_epochs * iterations_per_epoch
    if recipe.warmup_fraction is not None:
        warmup = recipe.warmup_fraction * total
    if position < warmup:
        return min(1.0, (position if recipe.warmup_from_zero else position + 1) / warmup)
    if recipe.schedule == "constant":
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * (position - warmup) / (total - warmup)))
