"""Batches on the device. Images are transferred as uint8 and normalised on the device, into a new tensor."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vpbench.data.augmentation import SEEDS, Augmentation, epoch_order
from vpbench.data.cache import CachedSplit
from vpbench.spec.run_spec import Preprocess

Batch = tuple[Tensor, Tensor]


class Normaliser:
    """Normalises uint8 images: (pixel / 255 - mean) / std per channel.

    Args:
        mean: per channel (RGB), for pixels in 0 ... 1.
        std: per channel.
        device: of the normalised images.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float], device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        self._shift = torch.tensor(mean, dtype=torch.float32, device=self.device).view(3, 1, 1) * 255
        self._scale = 1 / (torch.tensor(std, dtype=torch.float32, device=self.device).view(3, 1, 1) * 255)

    def __call__(self, pixels: NDArray[np.uint8]) -> Tensor:
        """uint8 (batch, height, width, 3) -> float32 (batch, 3, height, width) on the device. ``pixels`` is not modified."""
        moved = self.to_device(torch.from_numpy(pixels if pixels.flags.writeable else pixels.copy()))
        images = moved.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format)
        return images.sub_(self._shift).mul_(self._scale)

    def to_device(self, tensor: Tensor) -> Tensor:
        """Copies a tensor to the device; to a GPU asynchronously from pinned memory."""
        return tensor.pin_memory().to(self.device, non_blocking=True) if self.device.type == "cuda" else tensor.to(self.device)


def training_batches(
    split: CachedSplit,
    batch_size: int,
    preprocess: Preprocess,
    image_size: int,
    normalise: Normaliser,
    generator: torch.Generator,
    augmentation: Augmentation | None = None,
    repeats: int = 1,
) -> Iterator[Batch]:
    """One epoch: every image once, shuffled, with random crop and flip if ``preprocess`` has them; the last batch may be smaller.

    Args:
        image_size: side of the network's input; that of the split's cache.
        generator: on the CPU; the only source of randomness for order, crops, flips and all other augmentation.
        augmentation: what else is done to the images at random.
        repeats: how often in a row an image is drawn, see :func:`~vpbench.data.augmentation.epoch_order`.

    Yields:
        images float32 (batch, 3, image_size, image_size) and labels int64 (batch,), on the device.
    """
    if split.image_size != image_size:
        raise ValueError(f"images were cached for an input of {split.image_size} pixels, not {image_size}.")
    order = epoch_order(len(split), repeats, generator).numpy()
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        offsets = torch.rand(len(chosen), 2, generator=generator, dtype=torch.float64).numpy() if split.has_margin else None
        pixels = split.take(chosen, offsets)
        if augmentation is None:
            images = normalise(pixels)
        else:
            seed = int(torch.randint(SEEDS, (), generator=generator))
            images = augmentation.erased(normalise(augmentation.pixels(pixels, seed)), seed)
        if preprocess.random_flip:
            flipped = torch.rand(len(chosen), generator=generator) < 0.5
            images = torch.where(normalise.to_device(flipped).view(-1, 1, 1, 1), images.flip(-1), images)
        yield images, normalise.to_device(torch.from_numpy(split.labels[chosen]))


def evaluation_batches(split: CachedSplit, batch_size: int, normalise: Normaliser) -> Iterator[Batch]:
    """All images in order, with deterministic preprocessing: images with a margin for random crops are centre-cropped.

    Yields:
        images float32 (batch, 3, image_size, image_size) and labels int64 (batch,), on the device.
    """
    for start in range(0, len(split), batch_size):
        chosen = np.arange(start, min(start + batch_size, len(split)))
        yield normalise(split.take(chosen)), normalise.to_device(torch.from_numpy(split.labels[chosen]))
