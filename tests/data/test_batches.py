"""Batches: right values, every image once, the same again for the same generator, and cached pixels untouched."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from vpbench.data.batches import Normaliser, evaluation_batches, training_batches
from vpbench.data.cache import CachedSplit, RaggedImages, prepare
from vpbench.data.sources import digits
from vpbench.spec.run_spec import Preprocess

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PLAIN, FLIP = Preprocess(), Preprocess(random_flip=True)
CROP = Preprocess(resize="crop", random_crop=True)
AS_IS = Normaliser((0, 0, 0), (1, 1, 1))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def numbered(count: int, side: int = 8) -> CachedSplit:
    """Image and label ``i`` hold the number i; the left half is 100 brighter."""
    images = np.empty((count, side, side, 3), np.uint8)
    images[:] = np.arange(count)[:, None, None, None]
    images[:, :, : side // 2] += 100
    images.setflags(write=False)
    return CachedSplit(images, np.arange(count), side)


def test_values_against_the_formula() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 5, 4, 3), dtype=np.uint8)
    images = Normaliser(MEAN, STD)(pixels)
    assert images.dtype == torch.float32
    assert images.is_contiguous()
    wanted = ((pixels / 255 - np.array(MEAN)) / np.array(STD)).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(images.numpy(), wanted, atol=1e-5)


def test_reading_twice_gives_the_same(tmp_path: Path) -> None:
    """Normalising in place would do it twice to images of the second reading."""
    data = prepare(digits.read(), PLAIN, 16, tmp_path)
    before = np.array(data.val.images)
    normalise = Normaliser(MEAN, STD)
    first, second = ([images for images, _ in evaluation_batches(data.val, 64, normalise)] for _ in range(2))
    assert all(torch.equal(one, two) for one, two in zip(first, second))
    one, two = ([images for images, _ in training_batches(data.val, 64, FLIP, 16, normalise, generator())] for _ in range(2))
    assert all(torch.equal(left, right) for left, right in zip(one, two))
    assert np.array_equal(data.val.images, before)


def test_writable_pixels_are_not_changed_either() -> None:
    pixels = np.full((1, 2, 2, 3), 7, np.uint8)
    Normaliser(MEAN, STD)(pixels)
    assert (pixels == 7).all()


def test_evaluation_is_in_order_and_complete() -> None:
    batches = list(evaluation_batches(numbered(10), 4, AS_IS))
    assert [len(labels) for _, labels in batches] == [4, 4, 2]
    assert torch.cat([labels for _, labels in batches]).tolist() == list(range(10))
    for images, labels in batches:
        assert images.shape[1:] == (3, 8, 8)
        assert torch.equal((images[:, 0, 0, -1] * 255).round().long(), labels)


def test_training_shows_every_image_once_shuffled() -> None:
    split, source = numbered(50), generator()
    epochs = [[labels for _, labels in training_batches(split, 16, PLAIN, 8, AS_IS, source)] for _ in range(2)]
    assert [len(labels) for labels in epochs[0]] == [16, 16, 16, 2]
    orders = [torch.cat(epoch).tolist() for epoch in epochs]
    assert orders[0] != orders[1]
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(50))
    for images, labels in training_batches(split, 16, PLAIN, 8, AS_IS, source):
        assert torch.equal((images[:, 0, 0, -1] * 255).round().long(), labels)


def test_flips_are_of_whole_images_and_about_half() -> None:
    flipped = []
    for images, labels in training_batches(numbered(100), 16, FLIP, 8, AS_IS, generator()):
        brighter_right = images[:, 0, 0, -1] > images[:, 0, 0, 0]
        flipped += brighter_right.tolist()
        dark = torch.where(brighter_right, images[:, 0, 0, 0], images[:, 0, 0, -1])
        assert torch.equal((dark * 255).round().long(), labels)
    assert 30 < sum(flipped) < 70


@pytest.mark.parametrize("ragged", [False, True])
def test_crops_lie_inside_and_reach_every_place(ragged: bool) -> None:
    image = np.stack(np.broadcast_arrays(np.arange(10)[:, None], np.arange(10)[None, :], 0), axis=-1).astype(np.uint8)
    images = RaggedImages(np.tile(image.ravel(), 200), np.full((200, 2), 10)) if ragged else np.tile(image, (200, 1, 1, 1))
    split = CachedSplit(images, np.zeros(200, np.int64), 8)
    (whole,) = [images for images, _ in training_batches(split, 200, CROP, 8, AS_IS, generator())]
    assert whole.shape == (200, 3, 8, 8)
    corners = {tuple(corner) for corner in (whole[:, :2, 0, 0] * 255).round().long().tolist()}
    assert corners == {(top, left) for top in range(3) for left in range(3)}
    top, left = (whole[0, :2, 0, 0] * 255).round().long().tolist()
    assert torch.equal(whole[0], AS_IS(image[None])[0, :, top : top + 8, left : left + 8])
    ((centre, _),) = evaluation_batches(split, 200, AS_IS)
    assert (centre[:, :2, 0, 0] * 255).round().unique().tolist() == [1]


def test_generator_alone_decides() -> None:
    split = numbered(40)
    torch.manual_seed(1)
    first = [images for images, _ in training_batches(split, 16, FLIP, 8, AS_IS, generator())]
    torch.manual_seed(2)
    again = [images for images, _ in training_batches(split, 16, FLIP, 8, AS_IS, generator())]
    other = [images for images, _ in training_batches(split, 16, FLIP, 8, AS_IS, generator(1))]
    assert all(torch.equal(one, two) for one, two in zip(first, again))
    assert not all(torch.equal(one, two) for one, two in zip(first, other))


def test_no_images_no_batches() -> None:
    empty = numbered(0)
    assert list(evaluation_batches(empty, 4, AS_IS)) == []
    assert list(training_batches(empty, 4, FLIP, 8, AS_IS, generator())) == []


def test_wrong_size_is_refused() -> None:
    with pytest.raises(ValueError, match="cached for an input of 8 pixels, not 16"):
        next(training_batches(numbered(4), 4, PLAIN, 16, AS_IS, generator()))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gpu_gives_the_same_batches() -> None:
    for (here, one), (there, two) in zip(
        training_batches(numbered(40), 16, FLIP, 8, AS_IS, generator()),
        training_batches(numbered(40), 16, FLIP, 8, Normaliser((0, 0, 0), (1, 1, 1), "cuda"), generator()),
    ):
        assert there.device.type == "cuda"
        torch.testing.assert_close(here, there.cpu())
        assert torch.equal(one, two.cpu())
