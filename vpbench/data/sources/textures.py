"""Ten textures from formulas: gratings, waves, lattices, rings and noise, in two random colours, at random scale and angle.

Ground truth is exact, and nothing is downloaded. Of a class only the pattern is fixed: period, angle, position, colours and
noise are drawn for each image, so that neither a colour nor a position gives the class away.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
from numpy.typing import NDArray

from vpbench.data.raw import Labels, PixelSplit, RawData

Floats = NDArray[np.float64]

SIZE = 64
N_TRAIN, N_VAL, N_TEST = 800, 200, 1000
SEED = 1
TURN = 2 * np.pi


def _grating(u: Floats, v: Floats, draw: np.random.RandomState) -> Floats:
    return np.sin(TURN * u)


def _waves(u: Floats, v: Floats, draw: np.random.RandomState) -> Floats:
    return np.sin(TURN * (u + 0.35 * np.sin(TURN * v / 2)))


def _zigzag(u: Floats, v: Floats, draw: np.random.RandomState) -> Floats:
    return np.sign(np.sin(TURN * (u + np.abs((v / 2) % 1 - 0.5))))


def _chequers(u: Floats, v: Floats, draw: np.random.RandomState) -> Floats:
    return np.sign(np.sin(TURN * u) * np.sin(TURN * v))


def _plaid(u: Floats, v: Floats, draw: np.random.RandomState) -> Floats:
    return (np.sin(TURN * u) + np.sin(TURN * v)) / 2


def _bricks(u: Floats, v: Floats, draw: np.random.RandomState) -> Floats:
    """Joints of a tenth of a period; every second row is moved by half a brick."""
    joint = (v % 1 < 0.15) | ((u / 2 + 0.5 * (np.floor(v) % 2)) % 1 < 0.08)
    return np.where(joint, 1.0, -1.0)


def _dots(u: Floats, v: Floats, draw: np.random.RandomState) -> Floats:
    return np.where(np.hypot(u % 1 - 0.5, v % 1 - 0.5) < 0.3, 1.0, -1.0)


def _rings(u: Floats, v: Floats, draw: np.random.RandomState) -> Floats:
    return np.sin(TURN * np.hypot(u, v))


def _spiral(u: Floats, v: Floats, draw: np.random.RandomState) -> Floats:
    return np.sin(TURN * np.hypot(u, v) + 2 * np.arctan2(v, u))


def _clouds(u: Floats, v: Floats, draw: np.random.RandomState) -> Floats:
    """Waves of random direction, the longer the stronger."""
    angles, phases, rates = draw.uniform(0, TURN, 12), draw.uniform(0, TURN, 12), draw.uniform(0.1, 0.8, 12)
    waves = [np.sin(TURN * r * (u * np.cos(a) + v * np.sin(a)) + p) / r for a, p, r in zip(angles, phases, rates, strict=True)]
    total: Floats = np.sum(waves, axis=0)
    return total / np.abs(total).max()


PATTERNS: dict[str, Callable[[Floats, Floats, np.random.RandomState], Floats]] = {
    "grating": _grating, "waves": _waves, "zigzag": _zigzag, "chequers": _chequers, "plaid": _plaid,
    "bricks": _bricks, "dots": _dots, "rings": _rings, "spiral": _spiral, "clouds": _clouds,
}  # fmt: skip


def read() -> RawData:
    """800 training, 200 validation and 1,000 test images, a tenth of each split from every class; the same on every machine."""
    splits = {name: PixelSplit(pixels, labels, f"textures {name}") for name, (pixels, labels) in _drawn().items()}
    return RawData.of(list(PATTERNS), dict(splits))


@cache  # a plan and a run read the same images
def _drawn() -> dict[str, tuple[NDArray[np.uint8], Labels]]:
    """Images and class ids of each split."""
    draw = np.random.RandomState(SEED)  # its stream is frozen, unlike those of numpy's newer generators
    found: dict[str, tuple[NDArray[np.uint8], Labels]] = {}
    for name, count in (("train", N_TRAIN), ("val", N_VAL), ("test", N_TEST)):
        labels = draw.permutation(np.arange(count) % len(PATTERNS)).astype(np.int64)
        found[name] = np.stack([render(list(PATTERNS)[label], draw) for label in labels]), labels
    return found


def render(pattern: str, draw: np.random.RandomState) -> NDArray[np.uint8]:
    """(64, 64, 3): the pattern in coordinates that are scaled (3 to 8 periods across the image), rotated and moved."""
    angle, periods = draw.uniform(0, TURN), draw.uniform(3, 8)
    moved_x, moved_y = draw.uniform(-1, 1, 2) * SIZE / 4
    y, x = np.mgrid[:SIZE, :SIZE] - (SIZE - 1) / 2
    x, y = (x - moved_x) * periods / SIZE, (y - moved_y) * periods / SIZE
    u, v = x * np.cos(angle) - y * np.sin(angle), x * np.sin(angle) + y * np.cos(angle)
    share = (PATTERNS[pattern](u, v, draw)[..., None] + 1) / 2
    first, second = _colours(draw)
    noisy = share * first + (1 - share) * second + draw.normal(0, draw.uniform(2, 14), (SIZE, SIZE, 1))
    return np.rint(noisy.clip(0, 255)).astype(np.uint8)


def _colours(draw: np.random.RandomState) -> tuple[Floats, Floats]:
    """Two colours whose mean brightness differs by at least 60 of 255."""
    while True:
        first, second = draw.uniform(20, 235, (2, 3))
        if abs(first.mean() - second.mean()) >= 60:
            return first, second
