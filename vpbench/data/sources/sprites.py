"""White squares, ellipses and hearts on black, drawn with the geometry of dSprites (Matthey et al., 2017).

dSprites has 737,280 images: 3 shapes x 6 scales x 40 orientations x 32 x 32 positions. Downloading them for the 2,000
used here would be wasteful, so they are rendered. Sizes and outlines were fitted to the 320 frames that dSprites publishes
as ``dsprites.gif``; a redrawn frame differs from the published one in no more than 4 of its 4,096 pixels.
"""

from __future__ import annotations

from functools import cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from vpbench.data.masks import MaskedPixels
from vpbench.data.raw import PixelSplit, RawData

Floats = NDArray[np.float64]
Classes = NDArray[np.int64]

SIZE = 64
LATENTS = {"shape": 3, "scale": 6, "orientation": 40, "x": 32, "y": 32}
SQUARE, ELLIPSE, HEART = range(3)

N_TRAIN, N_VAL, N_TEST = 800, 200, 1000
SEED = 0
BINS = 16
SHAPES_SCALE = 2.0  # of the sprites with masks, which are one or two patches large otherwise; positions stay

Task = Literal["location", "orientation", "shapes"]


def read(task: Task) -> RawData:
    """800 training, 200 validation and 1,000 test images, the same for both tasks and on every machine.

    Args:
        task: ``location`` asks for the horizontal position in 16 bins (VTAB's dSprites/location), ``orientation`` for the
            rotation in 16 bins of the 40 steps (VTAB's dSprites/orientation), ``shapes`` for the shape of every pixel, on sprites
            of twice the size: background, square, ellipse, heart.
    """
    if task == "shapes":
        return _with_masks()
    pixels, latents = _draw()
    values, steps = (latents[:, 3], LATENTS["x"]) if task == "location" else (latents[:, 2], LATENTS["orientation"])
    labels = values * BINS // steps  # VTAB: floor(value / (steps / bins))
    parts = np.split(np.arange(len(pixels)), [N_TRAIN, N_TRAIN + N_VAL])
    splits = {
        name: PixelSplit(pixels[part], labels[part], f"sprites {name}") for name, part in zip(("train", "val", "test"), parts)
    }
    return RawData.of([f"{task} bin {number}" for number in range(BINS)], dict(splits))


def _with_masks() -> RawData:
    """Images and masks: white pixels carry the class of their shape, 1 to 3, black ones 0."""
    pixels, latents = _draw(SHAPES_SCALE)
    masks = np.where(pixels > 0, 1 + latents[:, 0, None, None], 0).astype(np.uint8)
    parts = np.split(np.arange(len(pixels)), [N_TRAIN, N_TRAIN + N_VAL])
    splits = {
        name: MaskedPixels(pixels[part], masks[part], f"sprites {name}") for name, part in zip(("train", "val", "test"), parts)
    }
    return RawData.of(["background", "square", "ellipse", "heart"], dict(splits))


def render(latents: Classes, enlarged: float = 1.0) -> NDArray[np.uint8]:
    """Renders sprites.

    Args:
        enlarged: factor on the scale.
        latents: (n, 5) classes of shape (0 square, 1 ellipse, 2 heart), scale, orientation, x and y, as in dSprites.

    Returns:
        (n, 64, 64) of 0 and 255. A pixel is white when its centre lies inside the shape.
    """
    shape = latents[:, 0]
    scale, angle = enlarged * (0.5 + 0.1 * latents[:, 1]), 2 * np.pi * latents[:, 2] / (LATENTS["orientation"] - 1)
    centre_x, centre_y = (16 + 32 * latents[:, axis] / 31 for axis in (3, 4))

    def column(values: Floats) -> Floats:
        return values[:, None, None]

    # Each pixel's centre in the coordinates of an upright shape of scale 1, y pointing down.
    pixel = np.arange(SIZE) + 0.5
    right, down = pixel[None, None, :] - column(centre_x), pixel[None, :, None] - column(centre_y)
    cos, sin = column(np.cos(angle) / scale), column(np.sin(angle) / scale)
    u, v = cos * right - sin * down, sin * right + cos * down

    inside = np.empty(u.shape, bool)
    for kind, contains in ((SQUARE, _in_square), (ELLIPSE, _in_ellipse), (HEART, _in_heart)):
        chosen = shape == kind
        inside[chosen] = contains(u[chosen], v[chosen])
    return inside.astype(np.uint8) * np.uint8(255)


def _in_square(u: Floats, v: Floats) -> NDArray[np.bool_]:
    return (np.abs(u) <= 9.6) & (np.abs(v) <= 9.6)


def _in_ellipse(u: Floats, v: Floats) -> NDArray[np.bool_]:
    return (u / 12.75) ** 2 + (v / 7.25) ** 2 <= 1


def _in_heart(u: Floats, v: Floats) -> NDArray[np.bool_]:
    """The heart curve x = 16 sin^3 t, y = 13 cos t - 5 cos 2t - 2 cos 3t - cos 4t, tip down, fitted to dSprites.

    Every x belongs to two values of t: one on the lobes, and its mirror pi - t on the way to the tip.
    """
    width, height, offset = 0.5998, 0.662, -1.434
    t = np.arcsin(np.cbrt(np.minimum(np.abs(u) / (16 * width), 1)))

    def edge(t: Floats) -> Floats:
        c: Floats = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
        return offset - height * c

    return (np.abs(u) <= 16 * width) & (edge(t) <= v) & (v <= edge(np.pi - t))


@cache  # a plan, a run and both tasks read the same images
def _draw(enlarged: float = 1.0) -> tuple[NDArray[np.uint8], Classes]:
    """2,000 images, all different, with their latents: drawn from all combinations without replacement.

    Different latents can have the same image (orientations 0 and 39 are the same angle), which must not be in two splits.
    """
    wanted = N_TRAIN + N_VAL + N_TEST
    total = int(np.prod(list(LATENTS.values())))
    # The stream of RandomState is frozen, unlike those of numpy's newer generators. A few spare draws replace duplicates.
    drawn = np.random.RandomState(SEED).permutation(total)[: wanted + 100]
    latents = np.stack(np.unravel_index(drawn, tuple(LATENTS.values())), axis=1)
    pixels = render(latents, enlarged)
    first = {image.tobytes(): index for index, image in reversed(list(enumerate(pixels)))}
    kept = np.sort(list(first.values()))[:wanted]
    return pixels[kept], latents[kept]
