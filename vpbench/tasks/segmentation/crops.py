"""Batches of crops from images and masks that keep their sizes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from vpbench.data.masks import IGNORED
from vpbench.tasks.segmentation.multi_scale import resized_image, resized_labels
from vpbench.tasks.segmentation.setr_augmentation import SETRAugmentation

if TYPE_CHECKING:
    from vpbench.data.batches import Batch, Normaliser
    from vpbench.data.cache import CachedSplit

Pair = tuple[Tensor, Tensor]  # image (3, H, W) and label map (H, W), bytes


def training_crops(
    split: CachedSplit, augmentation: SETRAugmentation, batch_size: int, normalise: Normaliser, generator: torch.Generator
) -> Iterator[Batch]:
    """One epoch: a crop of every image, shuffled: images (B, 3, S, S), class ids (B, S, S).

    Args:
        split: with images and masks in their own sizes.
        generator: the only source of randomness.
    """
    for chosen in torch.randperm(len(split), generator=generator).split(batch_size):
        pairs = [augmentation(*pair_of(split, index), generator) for index in chosen.tolist()]
        yield padded_batch(pairs, augmentation.crop, normalise)


def centre_crops(split: CachedSplit, batch_size: int, normalise: Normaliser) -> Iterator[Batch]:
    """All images in order, without chance: the short side resized to S, the centre S x S."""
    size = split.image_size
    for start in range(0, len(split), batch_size):
        pairs = [_centre(*pair_of(split, index), size) for index in range(start, min(start + batch_size, len(split)))]
        yield padded_batch(pairs, size, normalise)


def pair_of(split: CachedSplit, index: int) -> Pair:
    """An image and its label map, in their own size."""
    assert split.masks is not None
    image = torch.from_numpy(np.array(split.images[index])).permute(2, 0, 1)
    return image, torch.from_numpy(np.array(split.masks[index]))


def padded_batch(pairs: list[Pair], size: int, normalise: Normaliser) -> Batch:
    """Crops side by side; where one is smaller, the image is 0 behind it, after normalising, and the label ignored."""
    pixels = np.zeros((len(pairs), size, size, 3), np.uint8)
    labels = torch.full((len(pairs), size, size), IGNORED, dtype=torch.uint8)
    for place, (image, mask) in enumerate(pairs):
        height, width = mask.shape
        pixels[place, :height, :width], labels[place, :height, :width] = image.permute(1, 2, 0).numpy(), mask
    images = normalise(pixels)
    for place, (_, mask) in enumerate(pairs):
        height, width = mask.shape
        images[place, :, height:] = 0
        images[place, :, :, width:] = 0
    return images, normalise.to_device(labels)


def _centre(image: Tensor, mask: Tensor, size: int) -> Pair:
    height, width = (max(size, int(side * size / min(mask.shape) + 0.5)) for side in mask.shape)
    top, left = (height - size) // 2, (width - size) // 2
    image = resized_image(image.float(), (height, width)).round().clamp(0, 255).byte()
    rows, columns = slice(top, top + size), slice(left, left + size)
    return image[:, rows, columns], resized_labels(mask, (height, width))[rows, columns]
