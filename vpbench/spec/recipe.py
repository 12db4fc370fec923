"""How a method is fitted: the optimizer, its schedule, the loss. Data only; part of a run's identity."""

from __future__ import annotations

import math
from typing import Any, Literal

from pydantic import BaseModel, Field, field_validator, model_validator

from vpbench.core.frozen_model import FrozenModel

LATER: dict[str, Any] = {"came_later": True}  # marks fields that are hashed only when they are not at their default


def hashed_fields(model: BaseModel) -> dict[str, Any]:
    """The fields of a model as JSON values. Those that came later are left out at their defaults, so that run ids stay."""
    fields = type(model).model_fields
    later = {name for name, field in fields.items() if field.json_schema_extra == LATER}
    return model.model_dump(mode="json", exclude={name for name in later if getattr(model, name) == fields[name].default})


# What timm's --aa takes: RandAugment, AugMix, AutoAugment's policies, 3-Augment; each word a letter or a name and a number.
AUTO_AUGMENT = (
    r"^(rand(-(m|n|mstd|mmax|inc|p|t)[\d.]*(inf)?)*|augmix(-(m|w|d|a|b|mstd)[\d.]*(inf)?)*"
    r"|(original|originalr|v0|v0r|3a)(-mstd[\d.]+)?)?$"
)


class ParameterGroup(FrozenModel):
    """Learning rate and weight decay of some tensors."""

    match: str = Field(
        description="pattern of tensor names with * and ?: own.* (the method's), head.*, backbone.* (timm's names), *.bias"
    )
    lr_scale: float = Field(1.0, ge=0, description="factor on the recipe's learning rate")
    weight_decay: float | None = Field(None, ge=0, description="instead of the recipe's; None leaves that")


class Recipe(FrozenModel):
    """One training recipe. Frozen; unknown fields are errors.

    The learning rate in use is ``lr * batch_size / lr_reference_batch`` (``lr`` itself when that is None).
    Warm-up and decay follow a position t of T, counted in epochs or iterations, with W of T for warm-up: the factor is
    t / W (``warmup_from_zero``, so that the first epoch of VPT's released code trains nothing) or (t + 1) / W before W,
    and afterwards (1 + cos(pi (t - W) / (T - W))) / 2, or with ``poly`` (1 - (t - W) / (T - W)) ** ``poly_power``. With
    ``min_lr`` a learning rate r becomes ``min_lr`` + factor (r - ``min_lr``), the same floor for all groups (mmsegmentation).
    """

    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: float = Field(0.25, gt=0, description="base learning rate")
    lr_reference_batch: int | None = Field(
        None, ge=1, description="batch size for which lr is meant, 256 in VPT's scripts; None: raw"
    )
    momentum: float = Field(0.9, ge=0, lt=1, description="of SGD")
    weight_decay: float = Field(0.0, ge=0)
    decay: Literal["all", "not_head_bias", "matrices"] = Field(
        "all", description="which tensors decay: all, all but the head's bias (VPT), or only those with two or more dimensions"
    )
    epochs: int = Field(100, ge=1, le=100_000)
    iterations: int | None = Field(
        None, ge=1, json_schema_extra=LATER, description="steps of a training, in place of epochs; these are then what they take"
    )
    batch_size: int = Field(64, ge=1)
    schedule: Literal["cosine", "constant", "poly"] = "cosine"
    schedule_step: Literal["epoch", "iteration"] = "iteration"
    warmup_epochs: float = Field(0.0, ge=0, description="W in epochs")
    warmup_fraction: float | None = Field(
        None, ge=0, lt=1, description="W as a share of T, instead of warmup_epochs (InsVP: 0.2)"
    )
    poly_power: float = Field(0.9, gt=0, json_schema_extra=LATER, description="of the schedule poly; DeepLab's and SETR's is 0.9")
    min_lr: float = Field(0.0, ge=0, json_schema_extra=LATER, description="learning rate below which the schedule does not go")
    warmup_from_zero: bool = Field(False, description="first factor 0, as VPT's released code")
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    mixup: float = Field(0.0, ge=0, description="alpha of Mixup, 0 off")
    cutmix: float = Field(0.0, ge=0, description="alpha of CutMix, 0 off")
    mix_probability: float = Field(1.0, ge=0, le=1, description="share of batches that are mixed")
    mix_switch: float = Field(0.5, ge=0, le=1, description="share of mixed batches that take CutMix where both are on")
    drop_path: float = Field(
        0.0, ge=0, lt=1, json_schema_extra=LATER, description="stochastic depth, from 0 in the first block to this in the last"
    )
    ema: float = Field(
        0.0, ge=0, lt=1, json_schema_extra=LATER, description="decay of a moving average of the trained tensors, which is tested"
    )
    betas: tuple[float, float] = Field((0.9, 0.999), json_schema_extra=LATER, description="of AdamW")
    layer_decay: float = Field(
        1.0, gt=0, le=1, json_schema_extra=LATER,
        description="factor on the learning rate of tensors of the backbone, for each layer below the head (BEiT: 0.65)",
    )  # fmt: skip
    auto_augment: str = Field(
        "", pattern=AUTO_AUGMENT, json_schema_extra=LATER,
        description="timm's --aa: rand-m9-mstd0.5-inc1 (RandAugment), augmix-m5-w4-d2, original, v0, 3a; empty: none",
    )  # fmt: skip
    random_erasing: float = Field(
        0.0, ge=0, le=1, json_schema_extra=LATER, description="probability of random erasing, timm's --reprob with mode pixel"
    )
    repeats: int = Field(
        1, ge=1, json_schema_extra=LATER,
        description="repeated augmentation: how often in a row an image is drawn; an epoch has as many images as ever",
    )  # fmt: skip
    groups: tuple[ParameterGroup, ...] = Field(
        (), json_schema_extra=LATER, description="own learning rates and weight decays; the first whose pattern fits counts"
    )

    @model_validator(mode="after")
    def _warmup_fits(self) -> Recipe:
        if self.warmup_fraction is None and self.warmup_epochs >= self.epochs and self.warmup_epochs > 0:
            raise ValueError(
                f"warmup_epochs {self.warmup_epochs:g} leaves none of {self.epochs} epochs; lower it or raise epochs"
            )
        return self

    @field_validator("betas")
    @classmethod
    def _betas_below_one(cls, betas: tuple[float, float]) -> tuple[float, float]:
        if not all(0 <= beta < 1 for beta in betas):
            raise ValueError("both are at least 0 and less than 1")
        return betas

    def identity(self) -> dict[str, Any]:
        """What is hashed."""
        return hashed_fields(self)

    def for_images(self, images: int) -> Recipe:
        """The recipe with the epochs that its iterations take on so many training images."""
        if self.iterations is None:
            return self
        return self.model_copy(update={"epochs": math.ceil(self.iterations / math.ceil(images / self.batch_size))})

    @property
    def peak_lr(self) -> float:
        """The learning rate after warm-up."""
        return self.lr * self.batch_size / self.lr_reference_batch if self.lr_reference_batch else self.lr
