"""Training crops of images and masks, as the released configurations of SETR on ADE20K make them.

mmsegmentation 1.2.2, configs/_base_/datasets/ade20k.py, mmseg/datasets/transforms/transforms.py (Apache-2.0).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vpbench.data.masks import IGNORED, Mask, nearest
from vpbench.tasks.segmentation.multi_scale import rescaled_within, resized_image

if TYPE_CHECKING:
    from vpbench.data.batches import Batch, Normaliser
    from vpbench.data.cache import CachedSplit

Pixels = NDArray[np.uint8]

TRIES = 10  # for a crop that one class does not fill
BRIGHTNESS, HUE = 32, 18
FACTORS = (0.5, 1.5)  # of contrast and saturation
_HUES = 180  # of OpenCV, in steps of 2 degrees


@dataclass(frozen=True)
class CropRule:
    """How training crops are made.

    Attributes:
        size: side of a crop, pixels.
        scales: bounds of the random factor on the size, (0.5, 2).
        longest: largest long side at factor 1, pixels.
        most: share of a crop's labelled pixels that one class may have, below 1.
        photometric: whether colours are distorted.
        flip: whether crops are mirrored with probability 0.5.
    """

    size: int
    scales: tuple[float, float]
    longest: int
    most: float
    photometric: bool
    flip: bool


def training_crops(
    split: CachedSplit, rule: CropRule, batch_size: int, normalise: Normaliser, generator: torch.Generator
) -> Iterator[Batch]:
    """One epoch: a crop of every image, shuffled: images (B, 3, S, S), class ids (B, S, S).

    Args:
        split: with images and masks in their original sizes.
        generator: the only source of randomness.
    """
    assert split.masks is not None
    draw = Draw(generator)
    for chosen in torch.randperm(len(split), generator=generator).split(batch_size):
        crops = [random_crop(split.images[index], split.masks[index], rule, draw) for index in chosen.tolist()]
        yield padded_batch(crops, rule.size, normalise)


def centre_crops(split: CachedSplit, size: int, batch_size: int, normalise: Normaliser) -> Iterator[Batch]:
    """All images in order, without chance: the short side resized to S, the centre S x S."""
    assert split.masks is not None
    for start in range(0, len(split), batch_size):
        crops = []
        for index in range(start, min(start + batch_size, len(split))):
            shape = split.images[index].shape
            image, mask = resized_pair(split.images[index], split.masks[index], size / min(shape[:2]))
            top, left = ((side - size) // 2 for side in mask.shape)
            crops.append((image[top : top + size, left : left + size], mask[top : top + size, left : left + size]))
        yield padded_batch(crops, size, normalise)


def padded_batch(crops: list[tuple[Pixels, Mask]], size: int, normalise: Normaliser) -> Batch:
    """Crops side by side; where one is smaller, the image is 0 behind it, after normalising, and the label ignored."""
    pixels = np.zeros((len(crops), size, size, 3), np.uint8)
    labels = np.full((len(crops), size, size), IGNORED, np.int64)
    for place, (image, mask) in enumerate(crops):
        height, width = mask.shape
        pixels[place, :height, :width], labels[place, :height, :width] = image, mask
    images = normalise(pixels)
    for place, (_, mask) in enumerate(crops):
        height, width = mask.shape
        images[place, :, height:] = 0
        images[place, :, :, width:] = 0
    return images, normalise.to_device(torch.from_numpy(labels))


def random_crop(image: Pixels, mask: Mask, rule: CropRule, draw: Draw) -> tuple[Pixels, Mask]:
    """One crop, at most S x S: random size, random place that one class does not fill, mirror, colours."""
    ratio = draw.between(*rule.scales)
    height, width = rescaled_within(mask.shape, int(rule.longest * ratio), int(rule.size * ratio))  # type: ignore[arg-type]
    image, mask = _resized(image, (height, width)), nearest(mask, (height, width))
    crop = _place(mask.shape, rule.size, draw)
    for _ in range(TRIES):
        if is_mixed(mask[crop], rule.most):
            break
        crop = _place(mask.shape, rule.size, draw)
    image, mask = image[crop], mask[crop]
    if rule.flip and draw.coin():
        image, mask = image[:, ::-1], mask[:, ::-1]
    return distorted(image, draw) if rule.photometric else image, mask


def is_mixed(mask: Mask, most: float) -> bool:
    """Whether a crop has several classes, none of which has the share ``most`` of the labelled pixels or more."""
    counts = np.bincount(mask[mask != IGNORED].ravel())
    counts = counts[counts > 0]
    return len(counts) > 1 and bool(counts.max() / counts.sum() < most)


def resized_pair(image: Pixels, mask: Mask, factor: float) -> tuple[Pixels, Mask]:
    """Image and mask enlarged by a factor, sides rounded up to it or more."""
    size = tuple(int(side * factor + 0.5) for side in mask.shape)
    return _resized(image, size), nearest(mask, size)  # type: ignore[arg-type]


def _resized(image: Pixels, size: tuple[int, int]) -> Pixels:
    """Bilinear, half-pixel centres, without smoothing, rounded to bytes as OpenCV does."""
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).float()
    return np.asarray(resized_image(pixels, size).permute(1, 2, 0).round().clamp(0, 255).byte().numpy())


def _place(shape: tuple[int, ...], size: int, draw: Draw) -> tuple[slice, slice]:
    top, left = (draw.below(max(side - size, 0) + 1) for side in shape)
    return slice(top, top + size), slice(left, left + size)


class Draw:
    """Random numbers from a generator of torch."""

    def __init__(self, generator: torch.Generator) -> None:
        self._generator = generator

    def between(self, low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=self._generator, dtype=torch.float64))

    def below(self, count: int) -> int:
        """An integer from 0 to ``count`` - 1."""
        return int(torch.randint(count, (), generator=self._generator))

    def coin(self) -> bool:
        return self.below(2) == 1


# Colours


def distorted(image: Pixels, draw: Draw) -> Pixels:
    """Brightness, contrast, saturation and hue, each changed with probability 0.5; contrast before or after the others."""
    if draw.coin():
        image = scaled(image, offset=draw.between(-BRIGHTNESS, BRIGHTNESS))
    contrast_first = draw.coin()
    if contrast_first and draw.coin():
        image = scaled(image, draw.between(*FACTORS))
    if draw.coin():
        image = with_saturation(image, draw.between(*FACTORS))
    if draw.coin():
        image = with_hue(image, draw.below(2 * HUE) - HUE)
    if not contrast_first and draw.coin():
        image = scaled(image, draw.between(*FACTORS))
    return image


def scaled(values: Pixels, factor: float = 1.0, offset: float = 0.0) -> Pixels:
    """factor * value + offset, clipped and truncated to bytes."""
    return np.clip(values.astype(np.float32) * factor + offset, 0, 255).astype(np.uint8)


def with_saturation(image: Pixels, factor: float) -> Pixels:
    """RGB with its saturation times a factor."""
    hsv = _to_hsv(image)
    hsv[..., 1] = scaled(hsv[..., 1], factor)
    return _to_rgb(hsv)


def with_hue(image: Pixels, steps: int) -> Pixels:
    """RGB with its hue turned, in steps of 2 degrees."""
    hsv = _to_hsv(image)
    hsv[..., 0] = (hsv[..., 0].astype(np.int64) + steps) % _HUES
    return _to_rgb(hsv)


def _to_hsv(image: Pixels) -> Pixels:
    """Hue (0 to 179), saturation and value as bytes, as OpenCV has them."""
    rgb = image.astype(np.float32)
    value, span = rgb.max(-1), np.ptp(rgb, axis=-1)
    red, green, blue = np.moveaxis(rgb, -1, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        saturation = np.where(value > 0, 255 * span / value, 0)
        sector = np.where(
            value == red, (green - blue) / span, np.where(value == green, 2 + (blue - red) / span, 4 + (red - green) / span)
        )
    hue = np.where(span > 0, sector * 30, 0)
    return np.stack([np.rint(hue) % _HUES, np.rint(saturation), value], axis=-1).astype(np.uint8)


def _to_rgb(hsv: Pixels) -> Pixels:
    hue, saturation, value = np.moveaxis(hsv.astype(np.float32), -1, 0)
    sector, chroma = hue / 30, saturation / 255

    def channel(shift: float) -> NDArray[np.float32]:
        place = (shift + sector) % 6
        found: NDArray[np.float32] = value * (1 - chroma * np.clip(np.minimum(place, 4 - place), 0, 1))
        return found

    return np.rint(np.stack([channel(5), channel(3), channel(1)], axis=-1)).clip(0, 255).astype(np.uint8)


def as_batch(image: Pixels, normalise: Normaliser) -> Tensor:
    """One image as a batch, in its size."""
    return normalise(np.ascontiguousarray(image)[None])
