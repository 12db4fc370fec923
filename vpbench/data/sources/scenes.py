"""Shaded spheres on a plane, in the manner of CLEVR (Johnson et al., 2017): how many are there, how near is the nearest?

Drawn with a pinhole camera and Lambert's law, so that the ground truth is exact and nothing is downloaded. As in VTAB, three to
ten objects are counted, and the distance of the nearest one is asked for in six bins.
"""

from __future__ import annotations

from functools import cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from vpbench.data.raw import Labels, PixelSplit, RawData

Floats = NDArray[np.float64]

SIZE = 64
N_TRAIN, N_VAL, N_TEST = 800, 200, 1000
SEED = 2
COUNTS = range(3, 11)  # objects, as in CLEVR
RADII = (0.36, 0.56)  # small and large, in the units of the plane
NEAR, FAR = 3.2, 9.0  # distances of the spheres' centres from the camera along its axis
BINS = 6  # of the nearest distance, which is even between NEAR and LATEST
LATEST = 6.2
HEIGHT, FOCAL, HORIZON = 2.9, 64.0, 2.0  # of the camera above the plane; in pixels; row of the horizon
ROWS, COLUMNS = np.mgrid[:SIZE, :SIZE] + 0.5  # pixel centres
PLANE = np.where(ROWS < HORIZON, 175.0, 120 + 60 * np.clip((ROWS - HORIZON) / (SIZE - HORIZON), 0, 1))  # and the sky, in grey
LIGHT = np.array([-0.4, -0.7, -0.6]) / np.linalg.norm([0.4, 0.7, 0.6])  # x to the right, y down, z away from the camera
PALETTE = np.array(
    [[87, 87, 87], [173, 35, 35], [42, 75, 215], [29, 105, 20], [129, 74, 25], [129, 38, 192], [41, 208, 208], [255, 238, 51]],
    np.float64,
)  # the eight colours of CLEVR
VISIBLE = 0.35  # of each sphere's disc, at least: an object that cannot be seen cannot be counted

Task = Literal["count", "distance"]


def read(task: Task) -> RawData:
    """800 training, 200 validation and 1,000 test images, the same for both tasks and on every machine.

    Args:
        task: ``count`` asks for the number of spheres, 3 to 10 (8 classes, evenly drawn); ``distance`` for the distance of
            the nearest one in 6 bins of equal width (evenly drawn).
    """
    names = [f"{count} objects" for count in COUNTS] if task == "count" else [f"distance bin {number}" for number in range(BINS)]
    splits = {
        name: PixelSplit(pixels, counts if task == "count" else bins, f"scenes {name}")
        for name, (pixels, counts, bins) in _drawn().items()
    }
    return RawData.of(names, dict(splits))


@cache  # a plan, a run and both tasks read the same images
def _drawn() -> dict[str, tuple[NDArray[np.uint8], Labels, Labels]]:
    """Images, counts (from 0) and bins of each split."""
    draw = np.random.RandomState(SEED)  # its stream is frozen, unlike those of numpy's newer generators
    found: dict[str, tuple[NDArray[np.uint8], Labels, Labels]] = {}
    for name, size in (("train", N_TRAIN), ("val", N_VAL), ("test", N_TEST)):
        counts = draw.permutation(np.arange(size) % len(COUNTS)).astype(np.int64)
        bins = draw.permutation(np.arange(size) % BINS).astype(np.int64)
        scenes = [_scene(COUNTS[count], int(number), draw) for count, number in zip(counts, bins, strict=True)]
        found[name] = np.stack(scenes), counts, bins
    return found


def _scene(count: int, nearest: int, draw: np.random.RandomState) -> NDArray[np.uint8]:
    """(64, 64, 3): drawn again until every sphere can be seen."""
    while True:
        spheres = _spheres(count, nearest, draw)
        pixels, visible = render(spheres, draw.randint(len(PALETTE), size=count))
        if visible.min() >= VISIBLE:
            noisy = pixels + draw.normal(0, 3, pixels.shape)
            return np.rint(noisy.clip(0, 255)).astype(np.uint8)


def _spheres(count: int, nearest: int, draw: np.random.RandomState) -> Floats:
    """(count, 3): x, distance and radius; the first is the nearest, and its distance lies in the bin ``nearest``."""
    width = (LATEST - NEAR) / BINS
    first = NEAR + width * (nearest + draw.uniform(0.02, 0.98))
    placed: list[tuple[float, float, float]] = []
    while len(placed) < count:
        distance = draw.uniform(first, FAR) if placed else first
        sphere = (draw.uniform(-0.43, 0.43) * SIZE * distance / FOCAL, distance, RADII[draw.randint(len(RADII))])
        if all(_apart(sphere, other) for other in placed):
            placed.append(sphere)
    return np.array(placed)


def _apart(one: tuple[float, float, float], other: tuple[float, float, float]) -> bool:
    """Whether their discs overlap so little in the image that both can be seen."""
    (column, row, radius), (column2, row2, radius2) = _disc(*one), _disc(*other)
    return float(np.hypot(column - column2, row - row2)) > 0.8 * (radius + radius2)


def _disc(x: float, distance: float, radius: float) -> tuple[float, float, float]:
    """Column and row of a sphere's centre in the image, and its radius there, in pixels."""
    scale = FOCAL / distance
    return SIZE / 2 + scale * x, HORIZON + scale * (HEIGHT - radius), scale * radius


def _within(centre: float, radius: float) -> slice:
    """The rows or columns that a disc may cover."""
    return slice(max(int(centre - radius), 0), min(int(centre + radius) + 2, SIZE))


def render(spheres: Floats, colours: NDArray[np.int64]) -> tuple[Floats, Floats]:
    """Draws spheres that stand on the plane, the farthest first.

    Args:
        spheres: (n, 3), x to the right, distance along the camera's axis, radius.
        colours: (n,), rows of ``PALETTE``.

    Returns:
        (64, 64, 3) of 0 to 255, not rounded, and (n,) the share of each disc that lies in the image and is not hidden.
    """
    pixels = PLANE[..., None].repeat(3, axis=2)
    owner = np.full((SIZE, SIZE), -1)
    areas = np.empty(len(spheres))
    for index in np.argsort(-spheres[:, 1], kind="stable"):
        column, row, radius = _disc(*spheres[index])
        box = _within(row, radius), _within(column, radius)
        right, down = (COLUMNS[box] - column) / radius, (ROWS[box] - row) / radius
        inside = right**2 + down**2 <= 1
        towards = -np.sqrt(np.clip(1 - right**2 - down**2, 0, None))
        light = np.clip(right * LIGHT[0] + down * LIGHT[1] + towards * LIGHT[2], 0, None)[..., None]
        shaded = PALETTE[colours[index]] * (0.35 + 0.65 * light) + 90 * light**12
        pixels[box] = np.where(inside[..., None], shaded, pixels[box])
        owner[box] = np.where(inside, index, owner[box])
        areas[index] = np.pi * radius**2
    visible = np.array([(owner == index).sum() for index in range(len(spheres))]) / areas
    return pixels, visible
