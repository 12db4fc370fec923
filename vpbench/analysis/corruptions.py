"""Corruptions of images in the manner of ImageNet-C: noise, blur, weather and digital, each in five severities.

Formulas and parameters are those of hendrycks/robustness, ImageNet-C/create_c/make_imagenet_c.py, rewritten on NumPy and SciPy
(Hendrycks and Dietterich, Benchmarking Neural Network Robustness to Common Corruptions and Perturbations, ICLR 2019), for any
data set and image size. What differs:

- Lengths in pixels are for sides of 224 and scale with the side, whole ones from one pixel up; ImageNet-C has one size, and
  CIFAR-10-C parameters of its own. The disk of defocus blur has fractions of pixels at its border.
- Frost is left out, as it needs photographs of frost: 14 corruptions, not 15. The four extra ones are left out, too.
- Pixels of glass blur are taken from random places nearby, all at once, where ImageNet-C swaps them one after the other.
- Images are corrupted behind resize and crop, and not saved as JPEG after it.

So error rates are no substitute for those on the published files. Every image has a random stream of its own, by its place in the
split and the corruption: all methods and seeds see the same images, and severities share their draws.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from vpbench.core.names import unknown

Group = Literal["noise", "blur", "weather", "digital"]
Pixels = NDArray[np.float64]  # (S, S, 3), 0 ... 1
Random = np.random.Generator
Corruption = Callable[[Pixels, int, Random, float], Pixels]
"""(image, severity 0 ... 4, random stream, side / 224) to the corrupted image, which may leave 0 ... 1."""

SEVERITIES = (1, 2, 3, 4, 5)
SIDE = 224  # pixels, of ImageNet-C's images
_STREAM = 20250  # first word of every image's seed


def corrupted(image: NDArray[np.uint8], name: str, severity: int, index: int) -> NDArray[np.uint8]:
    """One image with a corruption.

    Args:
        image: (S, S, 3), uint8.
        name: of :data:`CORRUPTIONS`.
        severity: 1 to 5.
        index: place of the image in its split, which its random stream depends on.
    """
    random = np.random.default_rng((_STREAM, zlib.crc32(name.encode()), index))
    found = CORRUPTIONS[name][1](image / 255, severity - 1, random, image.shape[0] / SIDE)
    return np.round(np.clip(found, 0, 1) * 255).astype(np.uint8)


def corruption_names(words: Iterable[str]) -> list[str]:
    """Names in the order of :data:`CORRUPTIONS`; ``all`` stands for all, a group for its own.

    Raises:
        UsageError: for an unknown name, with a suggestion.
    """
    wanted = list(words)
    groups = {group for group, _ in CORRUPTIONS.values()}
    for word in wanted:
        if word not in CORRUPTIONS and word not in groups and word != "all":
            raise unknown("corruption", word, ["all", *sorted(groups), *CORRUPTIONS])
    return [name for name, (group, _) in CORRUPTIONS.items() if {"all", group, name} & set(wanted)]


# Noise


def gaussian_noise(x: Pixels, severity: int, random: Random, scale: float) -> Pixels:
    return x + (0.08, 0.12, 0.18, 0.26, 0.38)[severity] * random.standard_normal(x.shape)


def shot_noise(x: Pixels, severity: int, random: Random, scale: float) -> Pixels:
    photons = (60, 25, 12, 5, 3)[severity]
    return random.poisson(x * photons) / photons


def impulse_noise(x: Pixels, severity: int, random: Random, scale: float) -> Pixels:
    amount = (0.03, 0.06, 0.09, 0.17, 0.27)[severity]
    chance, salt = random.random(x.shape), random.random(x.shape) < 0.5
    return np.where(chance < amount, salt.astype(float), x)


# Blur


def defocus_blur(x: Pixels, severity: int, random: Random, scale: float) -> Pixels:
    radius, alias = ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5))[severity]
    disk = ndimage.gaussian_filter(_disk(radius * scale), alias * scale)
    return _filtered(x, disk / disk.sum())


def glass_blur(x: Pixels, severity: int, random: Random, scale: float) -> Pixels:
    sigma, delta, rounds = ((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2))[severity]
    reach, side = max(1, round(delta * scale)), x.shape[0]
    x = _smoothed(x, sigma * scale)
    rows, columns = np.mgrid[:side, :side]
    for _ in range(rounds):
        shift = random.integers(-reach, reach + 1, (2, side, side))
        x = x[np.clip(rows + shift[0], 0, side - 1), np.clip(columns + shift[1], 0, side - 1)]
    return _smoothed(x, sigma * scale)


def motion_blur(x: Pixels, severity: int, random: Random, scale: float) -> Pixels:
    radius, sigma = ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15))[severity]
    return _moved(x, radius * scale, sigma * scale, random.uniform(-45, 45))


def zoom_blur(x: Pixels, severity: int, random: Random, scale: float) -> Pixels:
    last, step = ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03))[severity]
    zooms = np.arange(1, last, step)
    return (x + sum(_zoomed(x, zoom) for zoom in zooms)) / (len(zooms) + 1)


# Weather


def snow(x: Pixels, severity: int, random: Random, scale: float) -> Pixels:
    mean, std, zoom, threshold, radius, sigma, kept = (
        (0.1, 0.3, 3, 0.5, 10, 4, 0.8), (0.2, 0.3, 2, 0.5, 12, 4, 0.7), (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
        (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65), (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
    )[severity]  # fmt: skip
    flakes = _zoomed(mean + std * random.standard_normal((*x.shape[:2], 1)), zoom)
    flakes = np.clip(np.where(flakes < threshold, 0, flakes), 0, 1)
    flakes = _moved(flakes, radius * scale, sigma * scale, random.uniform(-135, -45))
    grey = x @ np.array([0.299, 0.587, 0.114])
    x = kept * x + (1 - kept) * np.maximum(x, grey[..., None] * 1.5 + 0.5)
    return x + flakes + np.rot90(flakes, 2)


def fog(x: Pixels, severity: int, random: Random, scale: float) -> Pixels:
    strength, decay = ((1.5, 2), (2.0, 2), (2.5, 1.7), (2.5, 1.5), (3.0, 1.4))[severity]
    brightest = x.max()
    return (x + strength * _plasma(x.shape[0], decay, random)[..., None]) * brightest / (brightest + strength)


def brightness(x: Pixels, severity: int, random: Random, scale: float) -> Pixels:
    """The value of HSV is raised: hue and saturation stay."""
    value = x.max(-1, keepdims=True)
    raised = np.clip(value + (0.1, 0.2, 0.3, 0.4, 0.5)[severity], 0, 1)
    return np.where(value > 0, x * (raised / np.maximum(value, 1e-12)), raised)


# Digital


def contrast(x: Pixels, severity: int, random: Random, scale: float) -> Pixels:
    mean = x.mean((0, 1), keepdims=True)
    return (x - mean) * (0.4, 0.3, 0.2, 0.1, 0.05)[severity] + mean


def elastic_transform(x: Pixels, severity: int, random: Random, scale: float) -> Pixels:
    side = x.shape[0]
    strength, sigma, tilt = (
        (2, 0.7, 0.1), (2, 0.08, 0.2), (0.05, 0.01, 0.02), (0.07, 0.01, 0.02), (0.12, 0.01, 0.02)
    )[severity]  # fmt: skip
    full = side * 244 / SIDE  # ImageNet-C's constants are for 244
    third, middle = side // 3, side // 2
    corners = np.array([[middle + third] * 2, [middle + third, middle - third], [middle - third] * 2], float)
    moved = corners + random.uniform(-tilt * full, tilt * full, corners.shape)
    back = np.linalg.solve(np.column_stack([moved, np.ones(3)]), corners)  # from the new place to the old one
    # Smoothing over a longer distance leaves less of the noise, so that the strength scales with the square of the side.
    shift = [
        ndimage.gaussian_filter(random.uniform(-1, 1, (side, side)), sigma * full, mode="reflect", truncate=3)
        * (strength * full * scale)
        for _ in range(2)
    ]
    rows, columns = np.mgrid[:side, :side] + np.stack(shift)
    places = np.stack([rows.ravel(), columns.ravel(), np.ones(side * side)], 1) @ back
    channels = [ndimage.map_coordinates(x[..., channel], places.T, order=1, mode="reflect") for channel in range(x.shape[2])]
    return np.stack(channels, -1).reshape(x.shape)


def pixelate(x: Pixels, severity: int, random: Random, scale: float) -> Pixels:
    side = x.shape[0]
    small = max(1, int(side * (0.6, 0.5, 0.4, 0.3, 0.25)[severity]))
    image = Image.fromarray(np.round(x * 255).astype(np.uint8))
    found = image.resize((small, small), Image.Resampling.BOX).resize((side, side), Image.Resampling.BOX)
    return np.asarray(found) / 255


def jpeg_compression(x: Pixels, severity: int, random: Random, scale: float) -> Pixels:
    stream = io.BytesIO()
    Image.fromarray(np.round(x * 255).astype(np.uint8)).save(stream, "JPEG", quality=(25, 18, 15, 10, 7)[severity])
    with Image.open(stream) as image:
        return np.asarray(image.convert("RGB")) / 255


# Parts of them


def _disk(radius: float, fine: int = 8) -> Pixels:
    """The share of each pixel that lies in a disk, from ``fine`` x ``fine`` points of it; a margin of two pixels is empty."""
    reach = int(np.ceil(radius)) + 2
    places = (np.arange((2 * reach + 1) * fine) + 0.5) / fine - reach - 0.5
    inside = places[:, None] ** 2 + places**2 <= radius**2
    found: Pixels = inside.reshape(2 * reach + 1, fine, 2 * reach + 1, fine).mean((1, 3))
    return found


def _smoothed(x: Pixels, sigma: float) -> Pixels:
    found: Pixels = ndimage.gaussian_filter(x, (sigma, sigma, 0))
    return found


def _filtered(x: Pixels, kernel: Pixels) -> Pixels:
    found: Pixels = ndimage.convolve(x, kernel[..., None], mode="mirror")
    return found


def _moved(x: Pixels, radius: float, sigma: float, degrees: float) -> Pixels:
    """A one-sided Gaussian along a line, as ImageMagick's motion blur; borders are repeated."""
    width = 2 * max(1, round(radius)) + 1
    steps = np.arange(width)
    weights = np.exp(-(steps**2) / (2 * max(sigma, 1e-3) ** 2))
    weights /= weights.sum()
    angle = np.deg2rad(degrees)
    rows, columns = (np.clip(np.ceil(steps * part - 0.5).astype(int), -x.shape[0] + 1, x.shape[0] - 1)
                     for part in (np.sin(angle), np.cos(angle)))  # fmt: skip
    reach = int(max(np.abs(rows).max(), np.abs(columns).max()))
    padded = np.pad(x, ((reach, reach), (reach, reach), (0, 0)), mode="edge")
    side = x.shape[0]
    found = np.zeros_like(x)
    for weight, row, column in zip(weights, rows, columns):
        found += weight * padded[reach + row : reach + row + side, reach + column : reach + column + side]
    return found


def _zoomed(x: Pixels, factor: float) -> Pixels:
    """The centre, enlarged to the size of the whole, bilinearly."""
    side = x.shape[0]
    places = (np.arange(side) - (side - 1) / 2) / factor + (side - 1) / 2
    low = np.clip(np.floor(places).astype(int), 0, side - 2)
    share = (places - low)[:, None, None]
    x = x[low] * (1 - share) + x[low + 1] * share
    share = share.transpose(1, 0, 2)
    return x[:, low] * (1 - share) + x[:, low + 1] * share


def _plasma(side: int, decay: float, random: Random) -> Pixels:
    """Heights of the diamond-square algorithm on a torus, 0 ... 1, (side, side); ``decay`` divides the noise in each round."""
    size = 1 << (side - 1).bit_length()
    height = np.zeros((size, size))
    step, wobble = size, 1.0

    def noisy(total: Pixels) -> Pixels:
        return total / 4 + wobble * random.uniform(-1, 1, total.shape)

    while step >= 2:
        half = step // 2
        corners = height[::step, ::step]
        total = corners + np.roll(corners, -1, 0)
        height[half::step, half::step] = noisy(total + np.roll(total, -1, 1))
        middles, corners = height[half::step, half::step], height[::step, ::step]
        height[::step, half::step] = noisy(middles + np.roll(middles, 1, 0) + corners + np.roll(corners, -1, 1))
        height[half::step, ::step] = noisy(middles + np.roll(middles, 1, 1) + corners + np.roll(corners, -1, 0))
        step, wobble = half, wobble / decay
    height -= height.min()
    found: Pixels = (height / height.max())[:side, :side]
    return found


CORRUPTIONS: Mapping[str, tuple[Group, Corruption]] = MappingProxyType(
    {
        "gaussian_noise": ("noise", gaussian_noise),
        "shot_noise": ("noise", shot_noise),
        "impulse_noise": ("noise", impulse_noise),
        "defocus_blur": ("blur", defocus_blur),
        "glass_blur": ("blur", glass_blur),
        "motion_blur": ("blur", motion_blur),
        "zoom_blur": ("blur", zoom_blur),
        "snow": ("weather", snow),
        "fog": ("weather", fog),
        "brightness": ("weather", brightness),
        "contrast": ("digital", contrast),
        "elastic_transform": ("digital", elastic_transform),
        "pixelate": ("digital", pixelate),
        "jpeg_compression": ("digital", jpeg_compression),
    }
)
"""Group and function of each, in the order of ImageNet-C's tables."""
