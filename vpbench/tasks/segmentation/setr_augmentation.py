"""The training augmentation of SETR's released configurations: resize, crop, flip and colour, image and label map together.

Steps, order and numbers are those of mmsegmentation (configs/_base_/datasets/ade20k.py, mmseg/datasets/transforms/transforms.py,
Apache-2.0). Images are uint8 (3, H, W), label maps uint8 (H, W) with 255 for ignored pixels. The only source of randomness is a
generator on the CPU.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from vpbench.data.masks import IGNORED
from vpbench.tasks.segmentation.multi_scale import rescaled_within, resized_image, resized_labels

Pair = tuple[Tensor, Tensor]  # image and label map


@dataclass(frozen=True)
class SETRAugmentation:
    """Settings of the pipeline.

    Attributes:
        crop: side of a training crop, pixels.
        long: side within which an image is resized at ratio 1, pixels.
        short: the same of the short side.
        ratios: bounds of the random ratio.
        max_share: a crop is accepted when its largest class has a smaller share of the pixels with a label.
        tries: crops that are checked; the one drawn after as many failures is taken as it is.
        colour: whether brightness, contrast, saturation and hue change.
    """

    crop: int = 512
    long: int = 2048
    short: int = 512
    ratios: tuple[float, float] = (0.5, 2.0)
    max_share: float = 0.75
    tries: int = 10
    colour: bool = True

    def __call__(self, image: Tensor, labels: Tensor, generator: Generator) -> Pair:
        """An augmented pair, at most ``crop`` pixels high and wide; :func:`padded` fills it up after normalisation."""
        image, labels = self._resized(image, labels, generator)
        image, labels = self._cropped(image, labels, generator)
        if _coin(generator):
            image, labels = image.flip(-1), labels.flip(-1)
        return (distorted(image, generator) if self.colour else image), labels

    def _resized(self, image: Tensor, labels: Tensor, generator: Generator) -> Pair:
        ratio = _uniform(*self.ratios, generator)
        height, width = labels.shape
        size = rescaled_within((height, width), int(self.long * ratio), int(self.short * ratio))
        return resized_image(image.float(), size).round().clamp(0, 255).byte(), resized_labels(labels, size)

    def _cropped(self, image: Tensor, labels: Tensor, generator: Generator) -> Pair:
        rows, columns = self._window(labels, generator)
        for _ in range(self.tries if self.max_share < 1 else 0):
            if is_varied(labels[rows, columns], self.max_share):
                break
            rows, columns = self._window(labels, generator)
        return image[:, rows, columns], labels[rows, columns]

    def _window(self, labels: Tensor, generator: Generator) -> tuple[slice, slice]:
        def span(length: int) -> slice:
            begin = _integer(0, max(length - self.crop, 0), generator)
            return slice(begin, begin + self.crop)

        return span(labels.shape[0]), span(labels.shape[1])


def is_varied(labels: Tensor, max_share: float) -> bool:
    """Whether a crop has more than one class, and none with ``max_share`` or more of its pixels with a label."""
    counts = torch.bincount(labels[labels != IGNORED].long())
    return int((counts > 0).sum()) > 1 and float(counts.max() / counts.sum()) < max_share


def padded(image: Tensor, labels: Tensor, size: int) -> Pair:
    """A normalised image filled up with 0, the mean colour, and its label map with 255, right and below, to a square."""
    pad = (0, size - labels.shape[-1], 0, size - labels.shape[-2])
    return torch.nn.functional.pad(image, pad), torch.nn.functional.pad(labels, pad, value=IGNORED)


# Colour, on 0 ... 255; every step is clipped and truncated to uint8


def distorted(image: Tensor, generator: Generator) -> Tensor:
    """Random brightness, contrast, saturation and hue, each with probability 0.5; contrast before the others or behind them."""
    if _coin(generator):
        image = with_brightness(image, _uniform(-32, 32, generator))
    first = _coin(generator)
    if first and _coin(generator):
        image = with_contrast(image, _uniform(0.5, 1.5, generator))
    if _coin(generator):
        image = with_saturation(image, _uniform(0.5, 1.5, generator))
    if _coin(generator):
        image = with_hue(image, _integer(-18, 17, generator))
    if not first and _coin(generator):
        image = with_contrast(image, _uniform(0.5, 1.5, generator))
    return image


def with_brightness(image: Tensor, delta: float) -> Tensor:
    return _truncated(image.float() + delta)


def with_contrast(image: Tensor, factor: float) -> Tensor:
    return _truncated(image.float() * factor)


def with_saturation(image: Tensor, factor: float) -> Tensor:
    hue, saturation, value = to_hsv(image)
    return from_hsv(hue, _truncated(saturation.float() * factor), value)


def with_hue(image: Tensor, steps: int) -> Tensor:
    """Hue moved by steps of 2 degrees."""
    hue, saturation, value = to_hsv(image)
    return from_hsv((hue.int() + steps) % 180, saturation, value)


def to_hsv(image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Hue in steps of 2 degrees (0 ... 179), saturation and value (0 ... 255) of an RGB image, uint8 as OpenCV has them."""
    red, green, blue = image.float()
    value, least = image.float().amax(0), image.float().amin(0)
    span = value - least
    safe = span.clamp(min=1)
    hue = torch.where(
        value == red,
        (green - blue) / safe,
        torch.where(value == green, 2 + (blue - red) / safe, 4 + (red - green) / safe),
    )
    hue = (30 * hue).round() % 180
    saturation = (255 * span / value.clamp(min=1)).round()
    return hue.byte(), saturation.byte(), value.byte()


def from_hsv(hue: Tensor, saturation: Tensor, value: Tensor) -> Tensor:
    """The inverse of :func:`to_hsv`, uint8 (3, H, W)."""
    sector = hue.float() / 30
    share, top = saturation.float() / 255, value.float()
    # A channel is at the value within 60 degrees of its own hue, and falls to its least 120 degrees away.
    offsets = torch.tensor([5.0, 3.0, 1.0], device=hue.device).view(3, *[1] * hue.ndim)
    position = (sector + offsets) % 6
    falling = torch.minimum(position, 4 - position).clamp(0, 1)
    return (top * (1 - share * falling)).round().clamp(0, 255).byte()


def _truncated(image: Tensor) -> Tensor:
    return image.clamp(0, 255).byte()


def _coin(generator: Generator) -> bool:
    return bool(torch.randint(2, (), generator=generator))


def _uniform(low: float, high: float, generator: Generator) -> float:
    return low + (high - low) * float(torch.rand((), generator=generator, dtype=torch.float64))


def _integer(low: int, high: int, generator: Generator) -> int:
    """Both bounds included."""
    return int(torch.randint(low, high + 1, (), generator=generator))
