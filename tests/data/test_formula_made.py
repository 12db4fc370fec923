"""Textures and scenes: the ground truth is in the image, classes are even, and no image is in two places."""

from __future__ import annotations

import numpy as np
import pytest

from vpbench.data.raw import RawData
from vpbench.data.sources import scenes, textures

pytestmark = pytest.mark.sweep  # a changed image changes a digest in test_dataset_cards.py


@pytest.fixture(scope="module", params=["textures", "count", "distance"])
def raw(request: pytest.FixtureRequest) -> RawData:
    return textures.read() if request.param == "textures" else scenes.read(request.param)


def test_classes_are_even_and_no_image_is_in_two_places(raw: RawData) -> None:
    content: list[bytes] = []
    for split in raw.splits.values():
        counts = np.bincount(split.labels, minlength=len(raw.class_names))
        assert counts.max() - counts.min() <= 1
        content += [split.content(index) for index in range(len(split))]
    assert len(content) == len(set(content)) == 2000


def test_neither_the_mean_colour_nor_the_contrast_tells_a_texture() -> None:
    """The nearest class mean of colour and deviation is hardly better than chance, a tenth."""
    raw = textures.read()
    features, labels = {}, {}
    for name in ("train", "test"):
        split = raw.splits[name]
        images = np.stack([np.asarray(split.image(index), np.float64) for index in range(0, len(split), 2)])
        features[name] = np.concatenate([images.mean((1, 2)), images.std((1, 2))], axis=1)
        labels[name] = split.labels[::2]
    means = np.stack([features["train"][labels["train"] == kind].mean(0) for kind in range(10)])
    found = np.linalg.norm(features["test"][:, None] - means, axis=-1).argmin(1)
    assert (found == labels["test"]).mean() < 0.35


def test_a_lone_sphere_is_where_the_camera_puts_it() -> None:
    pixels, visible = scenes.render(np.array([[0.0, 4.0, 0.56]]), np.array([7]))
    yellow = pixels[..., 0] - pixels[..., 2] > 60
    rows, columns = np.nonzero(yellow)
    assert visible[0] == pytest.approx(1, abs=0.05)
    assert columns.mean() + 0.5 == pytest.approx(32, abs=1.5)
    assert rows.mean() + 0.5 == pytest.approx(scenes.HORIZON + 16 * (scenes.HEIGHT - 0.56), abs=1.5)


def test_the_nearer_sphere_hides_the_other() -> None:
    both = np.array([[0.0, 4.0, 0.56], [0.5, 4.4, 0.36]])
    pixels, visible = scenes.render(both, np.array([7, 2]))
    alone, _ = scenes.render(both[:1], np.array([7]))
    assert visible[0] == pytest.approx(1, abs=0.05)
    assert visible[1] < visible[0]
    owner = np.abs(pixels - alone).max(-1) > 0
    assert 0 < owner.sum() < np.pi * (64 / 4.4 * 0.36) ** 2


@pytest.mark.parametrize(("count", "nearest"), [(3, 0), (10, 5)])
def test_scenes_have_what_their_labels_say(count: int, nearest: int) -> None:
    draw = np.random.RandomState(7)
    spheres = scenes._spheres(count, nearest, draw)
    assert len(spheres) == count
    width = (scenes.LATEST - scenes.NEAR) / scenes.BINS
    assert int((spheres[:, 1].min() - scenes.NEAR) / width) == nearest
    assert spheres[:, 1].argmin() == 0
