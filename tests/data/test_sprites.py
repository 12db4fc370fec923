"""The sprites against published frames of dSprites, and what their splits promise."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from vpbench.data.raw import RawData
from vpbench.data.sources import sprites


@pytest.fixture(scope="module")
def location() -> RawData:
    return sprites.read("location")


def overlaps(latents: NDArray[np.int64], frames: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Intersection over union of each frame with the sprite drawn for its latents."""
    drawn, frames = sprites.render(latents) > 0, frames[..., 0] > 0
    return (drawn & frames).sum((1, 2)) / (drawn | frames).sum((1, 2))


@pytest.mark.real
def test_drawn_sprites_are_those_of_dsprites(shared: Path) -> None:
    with np.load(shared / "data" / "dsprites_official_gif_320.npz") as published:
        latents = published["latents_classes"][:, 1:]
        overlap = overlaps(latents, published["images"])
    assert overlap.mean() >= 0.999
    for shape in (sprites.SQUARE, sprites.ELLIPSE, sprites.HEART):
        assert overlap[latents[:, 0] == shape].mean() >= 0.996
    assert overlap.min() >= 0.98


@pytest.mark.real
def test_drawn_sprites_agree_with_another_renderer(shared: Path) -> None:
    """That renderer's squares and ellipses are exact; its heart is a coarser fit to the published frames than ours."""
    with np.load(shared / "data" / "dsprites_rerender.npz") as other:
        latents = other["latents_classes_test"][:1000, 1:]
        overlap = overlaps(latents, other["x_test"][:1000])
    assert overlap.mean() >= 0.99
    for shape, least in ((sprites.SQUARE, 0.9999), (sprites.ELLIPSE, 0.9999), (sprites.HEART, 0.985)):
        assert overlap[latents[:, 0] == shape].mean() >= least


def test_drawing_never_changes() -> None:
    rng = np.random.RandomState(1)
    latents = np.stack([rng.randint(size, size=200) for size in sprites.LATENTS.values()], axis=1)
    pixels = sprites.render(latents)
    assert pixels.shape == (200, 64, 64)
    assert set(np.unique(pixels)) == {0, 255}
    assert hashlib.sha256(pixels.tobytes()).hexdigest() == "aa78cf0d5ab5e5be0940d37b5531aedb78ee41c4343970c09824d7ab88a60a66"


def test_no_image_is_in_two_places(location: RawData) -> None:
    content = [split.content(index) for split in location.splits.values() for index in range(len(split))]
    assert len(content) == len(set(content)) == 2000


def test_tasks_share_images_and_differ_in_labels(location: RawData) -> None:
    orientation = sprites.read("orientation")
    for name, split in location.splits.items():
        other = orientation.splits[name]
        assert [split.content(index) for index in range(20)] == [other.content(index) for index in range(20)]
        assert split.labels.min() == other.labels.min() == 0
        assert split.labels.max() == other.labels.max() == 15
    assert location.digest != orientation.digest


def test_location_is_the_column_of_the_centre(location: RawData) -> None:
    """The mean x of white pixels is near the centre for all three shapes."""
    split = location.splits["train"]
    for index in range(100):
        columns = np.nonzero(np.asarray(split.image(index))[..., 0])[1] + 0.5
        middle_of_bin = 16 + 32 * (2 * split.labels[index] + 0.5) / 31
        assert abs(columns.mean() - middle_of_bin) < 3


def test_orientation_bins_are_those_of_vtab() -> None:
    """floor(class / (40 / 16))"""
    assert [value * 16 // 40 for value in range(40)] == [int(value / (40 / 16)) for value in range(40)]
