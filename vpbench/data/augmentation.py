"""Augmentation by timm's factories: RandAugment and its kin, random erasing, repeated augmentation.

timm draws from the global random streams of Python, NumPy and torch. Here every batch has streams of its own, seeded from the
run's generator, so that a run is the same on every machine and resumes in the middle of an epoch.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from timm.data.auto_augment import augment_and_mix_transform, auto_augment_transform, posterize, rand_augment_transform
from timm.data.distributed_sampler import RepeatAugSampler
from timm.data.random_erasing import RandomErasing
from timm.data.transforms import str_to_pil_interp
from torch import Tensor

from vpbench.spec.recipe import Recipe
from vpbench.spec.run_spec import Preprocess

FACTORIES = {
    "rand": rand_augment_transform,
    "augmix": augment_and_mix_transform,
}  # by the first word; others: auto_augment_transform
SEEDS = 2**31


class Augmentation:
    """What a recipe does to the pixels of training images at random, beside crops and flips.

    Args:
        recipe: ``auto_augment`` and ``random_erasing`` are read from it.
        preprocess: its interpolation is used for rotations and the like.
        image_size: pixels.
        mean: per channel of pixels in 0 ... 1; fills what a rotation leaves empty.
        device: of the normalised images.
    """

    def __init__(
        self, recipe: Recipe, preprocess: Preprocess, image_size: int, mean: Sequence[float], device: torch.device
    ) -> None:
        self._device = device
        self._pixels = None
        if recipe.auto_augment:
            arguments = {
                "translate_const": int(0.45 * image_size),
                "img_mean": tuple(min(255, round(255 * value)) for value in mean),
                "interpolation": str_to_pil_interp(preprocess.interpolation),
            }
            make = FACTORIES.get(recipe.auto_augment.partition("-")[0], auto_augment_transform)
            self._pixels = _with_own_posterize(make(recipe.auto_augment, arguments))
        self._erase = RandomErasing(recipe.random_erasing, mode="pixel", device=device) if recipe.random_erasing else None

    def pixels(self, pixels: NDArray[np.uint8], seed: int) -> NDArray[np.uint8]:
        """Images uint8 (B, S, S, 3), augmented one by one."""
        if self._pixels is None:
            return pixels
        with own_streams(seed, self._device):
            return np.stack([np.asarray(self._pixels(Image.fromarray(image))) for image in pixels])

    def erased(self, images: Tensor, seed: int) -> Tensor:
        """Normalised images (B, 3, S, S), in place: of each, with the recipe's probability, a rectangle becomes noise."""
        if self._erase is None:
            return images
        with own_streams(seed + SEEDS, self._device):
            return self._erase(images)


def _with_own_posterize(transform: Any) -> Any:
    """timm's transform, whose strongest posterizing leaves no bits: Pillow once made that black, and now refuses it."""
    policies = getattr(transform, "policy", None) or [transform.ops]
    for op in (op for ops in policies for op in ops):
        if op.aug_fn is posterize:
            op.aug_fn = _posterized
    return transform


def _posterized(image: Image.Image, bits: int, **_: Any) -> Image.Image:
    return posterize(image, bits) if bits > 0 else Image.new(image.mode, image.size)


def is_random(recipe: Recipe, preprocess: Preprocess) -> bool:
    """Whether a training image can look different from epoch to epoch."""
    drawn = preprocess.random_crop or preprocess.random_flip or recipe.auto_augment or recipe.random_erasing
    return bool(drawn) or recipe.mixup > 0 or recipe.cutmix > 0


def epoch_order(count: int, repeats: int, generator: torch.Generator) -> Tensor:
    """The images of an epoch: a permutation; with repeated augmentation the first ones of it, each ``repeats`` times in a row, so
    that an epoch has as many images as ever."""
    if repeats == 1:
        return torch.randperm(count, generator=generator)
    sampler = RepeatAugSampler(range(count), num_replicas=1, rank=0, num_repeats=repeats, selected_round=0)
    sampler.set_epoch(int(torch.randint(SEEDS, (), generator=generator)))
    return torch.tensor(list(sampler))


@contextmanager
def own_streams(seed: int, device: torch.device) -> Iterator[None]:
    """In the block, the global random streams are others, seeded; behind it they are where they were."""
    python, words = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.default_generator.manual_seed(seed)
        if device.type == "cuda":
            torch.cuda.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(words)
