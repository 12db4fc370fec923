"""Trained parameters of every method on every architecture that the papers use, without the classifier, as exact numbers.

Written out for ten prompts (L blocks, width D): VPT 10 L D, and 10 D for the first block alone; E2VPT 15 L D; iVPT
10 L D + 100 (L - 1) + 10 (L - 1) D; ViaPT 5 D + 10 (L - 1) (D - 128) and its generator; InsVP 9 L D and its three prompters.
Swin-B's L D is 2 * 128 + 2 * 256 + 18 * 512 + 2 * 1024 = 12,032.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest
import torch
from sweeps import case, some

from vpbench.backbones.base import Backbone
from vpbench.backbones.named import resolve_backbone
from vpbench.backbones.weights import load_backbone
from vpbench.models.registry import method_class, resolve_method

BACKBONES = ("vit-b16-in21k", "vit-l16-in21k", "vit-h14-in21k", "swin-b-in22k", "vit-tiny-augreg")
FACTS = {
    "linear": (0, 0, 0, 0, 0),
    "vpt": (92_160, 245_760, 409_600, 120_320, 23_040),
    "vpt:shallow": (7_680, 10_240, 12_800, 1_280, 1_920),
    "e2vpt": (138_240, 368_640, 614_400, 180_480, 34_560),
    "insvp": (136_627, 282_013, 432_133, 297_781, 74_419),
    "viapt": (158_784, 310_942, 471_890, 136_674, 46_656),
    "ivpt": (177_740, 483_580, 809_500, 122_320, 45_260),
}
HEADS = (76_900, 102_500, 128_100, 102_500, 19_300)  # of 100 classes: 100 D + 100, D behind the last block
CLASSES = 100
SAME_SHAPE = ("vit-b16-augreg-in21k", "vit-b16-mae", "vit-b16-mocov3", "vit-b16-dino", "clip-vit-b16")


@cache
def without_values(name: str) -> Backbone:
    with torch.device("meta"):
        return load_backbone(resolve_backbone(name, "random"))


def counted(label: str, adapter: Backbone) -> tuple[int, int]:
    """Trained parameters of the method and of its classifier."""
    spec = resolve_method(label)
    kind = method_class(spec.name)
    with torch.device("meta"):
        method = kind(kind.Config.model_validate(spec.config), adapter.shape, CLASSES)
        method.build()
        head = method.make_head(adapter.feature_width, CLASSES)
    own, classifier = (sum(p.numel() for p in part.parameters() if p.requires_grad) for part in (method.own, head))
    return own, classifier


@pytest.mark.parametrize("name", [case(name, always=("vit-b16-in21k", "swin-b-in22k")) for name in BACKBONES])
def test_exact_counts(name: str) -> None:
    adapter, place = without_values(name), BACKBONES.index(name)
    assert {label: counted(label, adapter) for label in FACTS} == {
        label: (counts[place], HEADS[place]) for label, counts in FACTS.items()
    }


@pytest.mark.parametrize("name", some(SAME_SHAPE, 1))
def test_other_weights_count_the_same(name: str) -> None:
    """What a method counts follows from the architecture's shape alone."""
    shape = without_values("vit-b16-in21k").shape
    assert replace(without_values(name).shape, mean=shape.mean, std=shape.std) == shape
