"""Corruptions in the manner of ImageNet-C: stored digests, seeds, sizes, names."""

from __future__ import annotations

import hashlib

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from vpbench.analysis.corruptions import CORRUPTIONS, SEVERITIES, corrupted, corruption_names
from vpbench.analysis.robustness import CorruptedSplit, mean_accuracy
from vpbench.core.errors import UsageError
from vpbench.spec.run_options import RunOptions

# SHA-256 of the five severities of one picture (its beginning), and their mean absolute differences from it.
STORED = {
    "gaussian_noise": ("14fd75eee8882b59", [13.2, 19.4, 28.1, 38.9, 52.8]),
    "shot_noise": ("236f3ec5a39bcd3f", [12.9, 19.4, 27.0, 40.4, 49.7]),
    "impulse_noise": ("c363dca0988de925", [3.9, 7.8, 12.0, 23.2, 35.2]),
    "defocus_blur": ("e0fc74c10fe67ccc", [4.0, 11.4, 18.3, 23.6, 29.9]),
    "glass_blur": ("68b898b366284c7e", [35.9, 30.0, 42.7, 35.9, 35.8]),
    "motion_blur": ("968a280cbb10b676", [6.0, 14.5, 26.6, 37.5, 43.4]),
    "zoom_blur": ("ea10d07f57e78255", [22.1, 28.4, 33.4, 38.0, 42.2]),
    "snow": ("8cbf4b8b847db12b", [39.3, 57.5, 59.5, 72.1, 86.7]),
    "fog": ("f7d230391bb7a88b", [58.1, 64.6, 68.2, 67.2, 70.1]),
    "brightness": ("6888c8ce87a7646b", [6.3, 11.7, 16.0, 19.3, 21.9]),
    "contrast": ("f69ab1a6cd4db4ab", [50.5, 58.9, 67.4, 75.9, 80.0]),
    "elastic_transform": ("8b72de06388f0523", [57.9, 71.9, 16.4, 17.6, 21.9]),
    "pixelate": ("d45f5328d42f5664", [22.1, 9.7, 32.0, 43.5, 40.4]),
    "jpeg_compression": ("3ec4deadabcb9b9b", [31.1, 34.1, 34.1, 36.1, 38.5]),
}  # fmt: skip


def picture(side: int = 48) -> NDArray[np.uint8]:
    rows, columns = np.mgrid[:side, :side]
    channels = [rows * 5 % 256, rows * columns % 256, 255 * ((rows // 6 + columns // 6) % 2)]
    return np.stack(channels, -1).astype(np.uint8)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_stored_digests(name: str) -> None:
    digest, differences = STORED[name]
    image = picture()
    found = np.stack([corrupted(image, name, severity, 3) for severity in SEVERITIES])
    assert np.abs(found / 1.0 - image).mean((1, 2, 3)) == pytest.approx(differences, abs=0.06)
    assert hashlib.sha256(found.tobytes()).hexdigest()[:16] == digest
    assert np.array_equal(image, picture()), "the image itself was changed"


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_any_size(name: str) -> None:
    """From digits to large photographs; what an image looks like depends on its own stream alone."""
    for side in (8, 28, 33):
        assert corrupted(picture(side), name, 5, 0).shape == (side, side, 3)
    grey = np.full((16, 16, 3), 128, np.uint8)
    assert corrupted(grey, name, 3, 1).dtype == np.uint8
    black = np.zeros((16, 16, 3), np.uint8)
    assert corrupted(black, name, 5, 1).shape == black.shape


def test_an_image_is_the_same_in_every_batch() -> None:
    images = np.stack([picture(32)] * 4)
    split = CorruptedSplit(images, np.zeros(4, np.int64), 32, corruption="snow", severity=2)
    together, alone = split.take(np.arange(4)), split.take(np.array([2]))
    assert np.array_equal(together[2], alone[0]) and not np.array_equal(together[2], together[1])


def test_names_and_groups() -> None:
    assert corruption_names(["all"]) == list(CORRUPTIONS)
    assert corruption_names(["blur", "fog", "motion_blur"]) == ["defocus_blur", "glass_blur", "motion_blur", "zoom_blur", "fog"]
    with pytest.raises(UsageError, match=r"fogg.*fog"):
        corruption_names(["fogg"])
    assert RunOptions.from_keywords(corruptions="blur,fog").artefacts[-1] == "weights"


def test_means_are_over_severities_first() -> None:
    table = pd.DataFrame(
        [(name, severity, 90.0 - 10 * severity) for name in corruption_names(["noise", "fog"]) for severity in SEVERITIES],
        columns=["corruption", "severity", "acc1"],
    )
    assert mean_accuracy(table) == {"noise": 60.0}
    assert mean_accuracy(table[table["severity"] < 5]) == {}
