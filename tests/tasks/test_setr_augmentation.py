"""SETR's training augmentation: the steps of mmsegmentation, image and label map together."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Generator, Tensor

from golden_fill import load_golden
from vpbench.tasks.segmentation.setr_augmentation import (
    SETRAugmentation,
    distorted,
    from_hsv,
    is_varied,
    padded,
    to_hsv,
    with_brightness,
    with_contrast,
    with_hue,
    with_saturation,
)

STEPS: dict[str, Any] = {
    "brightness": with_brightness, "contrast": with_contrast, "saturation": with_saturation,
    "hue": lambda image, steps: with_hue(image, int(steps)),
}  # fmt: skip


def seeded(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def test_colour_steps_are_opencv_s() -> None:
    data = load_golden("setr")["data"]["photometric"]
    image = torch.tensor(data["rgb"], dtype=torch.uint8).T[:, None]
    for name, expected in data.items():
        if name == "rgb":
            continue
        step, amount = name.split()
        found = STEPS[step](image, float(amount))[:, 0].T.int()
        torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.int32), rtol=0, atol=5, msg=name)


def test_hue_there_and_back() -> None:
    image = torch.randint(0, 256, (3, 20, 20), generator=seeded(), dtype=torch.uint8)
    assert (from_hsv(*to_hsv(image)).int() - image.int()).abs().max() <= 5
    grey = torch.full((3, 2, 2), 90, dtype=torch.uint8)
    assert torch.equal(with_hue(with_saturation(grey, 1.4), 17), grey)


def test_crops_that_are_accepted() -> None:
    data = load_golden("setr")["data"]["crop_accepted"]
    assert data["max_ratio"] == SETRAugmentation().max_share and data["tries"] == SETRAugmentation().tries
    for case in data["cases"]:
        assert is_varied(torch.tensor(case["labels"], dtype=torch.uint8), data["max_ratio"]) == case["accepted"]


def marked(height: int, width: int) -> tuple[Tensor, Tensor]:
    """A pair whose label map is its red channel, in large squares."""
    squares = torch.arange(height)[:, None] // 16 * 7 + torch.arange(width) // 16 * 3
    labels = (squares % 5).byte()
    return torch.stack([50 * labels, 0 * labels, 255 - 50 * labels]), labels


@pytest.mark.parametrize("seed", range(4))
def test_image_and_labels_stay_together(seed: int) -> None:
    augment = SETRAugmentation(crop=48, long=512, short=64, colour=False)
    image, labels = augment(*marked(96, 160), seeded(seed))
    assert image.shape[1:] == labels.shape and max(labels.shape) <= 48
    inner = image[0].float() / 50
    assert (inner.round() == labels).float().mean() > 0.8  # squares' borders are blurred in the image alone


def test_same_generator_same_pair_and_all_sizes_occur() -> None:
    augment = SETRAugmentation(crop=48, long=512, short=64)
    first, again = (augment(*marked(96, 160), seeded(5)) for _ in range(2))
    assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])
    sides = {augment(*marked(96, 160), seeded(seed))[1].shape[0] for seed in range(12)}
    assert max(sides) == 48 and min(sides) < 48  # at ratios below 0.75 the short side is less than the crop


def test_flips_half_of_the_images() -> None:
    labels = torch.tensor([[0, 1]], dtype=torch.uint8).repeat_interleave(8, 1).repeat(16, 1)
    augment = SETRAugmentation(crop=16, long=16, short=16, ratios=(1.0, 1.0), colour=False)
    found = [int(augment(labels.repeat(3, 1, 1), labels, seeded(seed))[1][0, 0]) for seed in range(60)]
    assert 18 <= sum(found) <= 42


def test_padding() -> None:
    image, labels = padded(torch.ones(3, 4, 6), torch.zeros(4, 6, dtype=torch.uint8), 8)
    assert image.shape == (3, 8, 8) and labels.shape == (8, 8)
    assert not image[:, 4:].any() and not image[:, :, 6:].any() and image[:, :4, :6].all()
    assert (labels[4:] == 255).all() and (labels[:, 6:] == 255).all() and not labels[:4, :6].any()


def test_colour_is_left_alone_at_times() -> None:
    image = torch.randint(0, 256, (3, 6, 6), generator=seeded(), dtype=torch.uint8)
    found = [distorted(image, seeded(seed)) for seed in range(40)]
    assert all(each.dtype == torch.uint8 and each.shape == image.shape for each in found)
    same = sum(torch.equal(each, image) for each in found)
    assert 1 <= same <= 12  # one of 16 on average
