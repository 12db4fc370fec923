"""Optimizer, parameter groups and learning-rate schedule of a recipe."""

from __future__ import annotations

import math
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import nn

from vpbench.core.errors import UsageError
from vpbench.models.prompted import PromptedModel
from vpbench.spec.recipe import Recipe


def parameter_groups(
    trainable: list[tuple[str, nn.Parameter]], recipe: Recipe, depths: Mapping[str, int] | None = None
) -> list[dict[str, Any]]:
    """Every trainable tensor in exactly one group: by factor on the learning rate (``lr_scale``) and weight decay.

    Args:
        trainable: names (``own.…``, ``head.…``) and tensors, as of ``PromptedModel.trainable``.
        recipe: its ``decay`` says which tensors decay, its ``groups`` which have a rate or a decay of their own.
        depths: layers below the head of each tensor that ``layer_decay`` is for; others have the full rate.
    """
    layers = depths or {}

    def decays(name: str, parameter: nn.Parameter) -> bool:
        if recipe.decay == "matrices":
            return parameter.ndim > 1
        return recipe.decay == "all" or not (name.startswith("head.") and name.endswith("bias"))

    def settings(name: str, parameter: nn.Parameter) -> tuple[float, float]:
        own = next((group for group in recipe.groups if fnmatchcase(name, group.match)), None)
        scale = (1.0 if own is None else own.lr_scale) * recipe.layer_decay ** layers.get(name, 0)
        if own is not None and own.weight_decay is not None:
            return scale, own.weight_decay
        return scale, recipe.weight_decay if decays(name, parameter) else 0.0

    found: dict[tuple[float, float], list[nn.Parameter]] = {(1.0, recipe.weight_decay): []}  # decayed ones first
    for name, parameter in trainable:
        found.setdefault(settings(name, parameter), []).append(parameter)
    return [
        {"params": parameters, "lr_scale": scale, "weight_decay": decay}
        for (scale, decay), parameters in found.items()
        if parameters
    ]


def make_optimizer(
    trainable: list[tuple[str, nn.Parameter]], recipe: Recipe, depths: Mapping[str, int] | None = None
) -> torch.optim.Optimizer:
    """The recipe's optimizer over the trainable tensors; ``depths`` as of :func:`parameter_groups`."""
    groups: list[dict[str, Any]] = parameter_groups(trainable, recipe, depths)
    for group in recipe.groups:
        if not any(fnmatchcase(name, group.match) for name, _ in trainable):
            raise UsageError(f"recipe.groups: no trained tensor is called {group.match}; names begin with own., head., backbone.")
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=recipe.peak_lr, betas=recipe.betas)
    return torch.optim.SGD(groups, lr=recipe.peak_lr, momentum=recipe.momentum)


def backbone_depths(model: PromptedModel, recipe: Recipe) -> dict[str, int]:
    """The layers below the head of what a model trains in its backbone, for a recipe with ``layer_decay``; empty without.

    Raises:
        UsageError: when it trains nothing there.
    """
    if recipe.layer_decay == 1:
        return {}
    found = {f"backbone.{name}": depth for name, depth in model.backbone.layers_below_head().items()}
    if not any(name in found for name, _ in model.trainable()):
        raise UsageError(
            f"recipe.layer_decay is for what is trained in the backbone, and {model.method.title} trains nothing there."
        )
    return found


def lr_factor(recipe: Recipe, iteration: int, iterations_per_epoch: int) -> float:
    """Share of the peak learning rate at an iteration (from 0); see :class:`Recipe` for the formula."""
    if recipe.schedule_step == "epoch":
        position, total = iteration // iterations_per_epoch, recipe.epochs
        warmup = recipe.warmup_epochs
    else:
        position, total = iteration, recipe.iterations or recipe.epochs * iterations_per_epoch
        warmup = recipe.warmup_epochs * iterations_per_epoch
    if recipe.warmup_fraction is not None:
        warmup = recipe.warmup_fraction * total
    if position < warmup:
        return min(1.0, (position if recipe.warmup_from_zero else position + 1) / warmup)
    if recipe.schedule == "constant":
        return 1.0
    if recipe.schedule == "poly":
        return (1 - (position - warmup) / (total - warmup)) ** recipe.poly_power
    return 0.5 * (1 + math.cos(math.pi * (position - warmup) / (total - warmup)))


def learning_rate(recipe: Recipe, factor: float, scale: float) -> float:
    """Of a group of parameters, from :func:`lr_factor` and the group's scale."""
    if recipe.min_lr == 0:
        return recipe.peak_lr * factor * scale
    return recipe.min_lr + factor * (recipe.peak_lr * scale - recipe.min_lr)
