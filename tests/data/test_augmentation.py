"""Augmentation by timm's factories: the same batches from the same generator, and the global random streams left alone."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from vpbench.data.augmentation import Augmentation, epoch_order, is_random
from vpbench.data.batches import Normaliser, training_batches
from vpbench.data.cache import CachedSplit
from vpbench.spec.recipe import Recipe
from vpbench.spec.run_spec import Preprocess

SIDE, COUNT = 32, 10
HALF = (0.5, 0.5, 0.5)
CPU = torch.device("cpu")


def split() -> CachedSplit:
    pixels = np.random.default_rng(0).integers(0, 256, (COUNT, SIDE, SIDE, 3), dtype=np.uint8)
    return CachedSplit(pixels, np.arange(COUNT), SIDE)


def epoch(seed: int, **fields: Any) -> list[tuple[torch.Tensor, torch.Tensor]]:
    recipe, generator = Recipe(batch_size=4, **fields), torch.Generator().manual_seed(seed)
    augmentation = Augmentation(recipe, Preprocess(), SIDE, HALF, CPU)
    arguments = (4, Preprocess(), SIDE, Normaliser(HALF, HALF), generator)
    return list(training_batches(split(), *arguments, augmentation, recipe.repeats))


@pytest.mark.parametrize(
    "fields",
    [
        {"auto_augment": "rand-m9-mstd0.5-inc1"},
        {"auto_augment": "augmix-m5-w4-d2"},
        {"auto_augment": "v0"},
        {"random_erasing": 1.0},
    ],
)
def test_the_same_from_the_same_generator(fields: dict[str, Any]) -> None:
    before = random.getstate()[1][:3], np.random.get_state()[1][:3].tolist(), torch.get_rng_state()
    first = epoch(3, **fields)
    assert (random.getstate()[1][:3], np.random.get_state()[1][:3].tolist()) == before[:2]
    assert torch.equal(torch.get_rng_state(), before[2])
    random.seed(9)
    torch.manual_seed(9)
    again, other = epoch(3, **fields), epoch(4, **fields)
    assert all(torch.equal(one, two) for pair in zip(first, again) for one, two in zip(*pair))
    assert not torch.equal(first[0][0], other[0][0])
    changed = {int(label): image for images, labels in first for image, label in zip(images, labels)}
    plain = Normaliser(HALF, HALF)(split().images)
    different = sum(not torch.equal(changed[index], plain[index]) for index in range(COUNT))
    assert len(changed) == COUNT and different > COUNT // 2


@pytest.mark.parametrize("given", ["rand-m10-mstd0-n9", "v0", "original"])
def test_the_strongest_posterizing(given: str) -> None:
    """It leaves no bits, which Pillow refuses."""
    augmentation = Augmentation(Recipe(auto_augment=given), Preprocess(), SIDE, HALF, CPU)
    pixels = np.concatenate([split().images] * 5)
    assert augmentation.pixels(pixels, 1).shape == pixels.shape


def test_erasing_leaves_the_rest_of_an_image() -> None:
    images = torch.zeros(4, 3, SIDE, SIDE)
    augmentation = Augmentation(Recipe(random_erasing=1.0), Preprocess(), SIDE, HALF, CPU)
    share = augmentation.erased(images, 0).ne(0).float().mean()
    assert 0.02 < share < 0.4


def test_repeated_augmentation() -> None:
    order = epoch_order(COUNT, 3, torch.Generator().manual_seed(0)).tolist()
    assert len(order) == COUNT
    assert sorted(Counter(order).values()) == [1, 3, 3, 3]
    assert all(order[place] == order[place + 1] == order[place + 2] for place in (0, 3, 6))
    generator = torch.Generator().manual_seed(0)
    assert torch.equal(epoch_order(COUNT, 1, generator), torch.randperm(COUNT, generator=torch.Generator().manual_seed(0)))


def test_what_is_random() -> None:
    assert not is_random(Recipe(repeats=3, ema=0.9), Preprocess())
    for recipe in (Recipe(auto_augment="v0"), Recipe(random_erasing=0.1), Recipe(mixup=0.2), Recipe(cutmix=1.0)):
        assert is_random(recipe, Preprocess())
    assert is_random(Recipe(), Preprocess(random_flip=True)) and is_random(Recipe(), Preprocess(random_crop=True))


@pytest.mark.parametrize("given", ["rand-9", "rand-x3", "auto", "rand m9", "augmix-n2"])
def test_mistakes(given: str) -> None:
    with pytest.raises(ValidationError, match="auto_augment"):
        Recipe(auto_augment=given)


@pytest.mark.parametrize(
    "given",
    ["rand-m9-mstd0.5-inc1", "rand-m7-n3", "rand", "augmix-m5-w4-d2-a0.5-b1", "original-mstd0.5", "3a", "rand-m9-mstdinf"],
)
def test_what_timm_takes_is_taken(given: str) -> None:
    Augmentation(Recipe(auto_augment=given), Preprocess(), SIDE, HALF, CPU).pixels(split().images[:1], 0)
