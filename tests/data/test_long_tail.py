"""CIFAR-100-LT: the numbers of images that the literature has, and those of LDAM-DRW's code."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from miniatures import cifar

from vpbench.data.catalog import dataset_card
from vpbench.data.sources.cifar import long_tailed, read
from vpbench.planning.suites import suite_card


@pytest.mark.parametrize("name", suite_card("cifar100-lt").datasets)
def test_numbers_of_images(name: str) -> None:
    card = dataset_card(name)
    labels = np.random.default_rng(0).permutation(np.arange(100).repeat(500))
    imbalance = int(card.options["imbalance"])  # type: ignore[arg-type]
    chosen = long_tailed(labels, imbalance)
    counts = np.bincount(labels[chosen], minlength=100)
    assert len(set(chosen.tolist())) == len(chosen) == card.n_train
    assert counts[0] == 500 and counts[-1] == 500 // imbalance and (np.diff(counts) <= 0).all()


def test_the_images_are_those_of_the_released_code() -> None:
    """kaidic/LDAM-DRW, imbalance_cifar.py, seeds the global stream with 0 and shuffles one class after the other."""
    labels = np.random.default_rng(1).permutation(np.arange(100).repeat(500))
    np.random.seed(0)
    places = []
    for label in range(100):
        own = np.where(labels == label)[0]
        np.random.shuffle(own)
        places += own[: int(500 * (0.01 ** (label / (100 - 1.0))))].tolist()
    assert long_tailed(labels, 100).tolist() == places


def test_every_class_keeps_an_image() -> None:
    assert np.bincount(np.arange(20).repeat(3)[long_tailed(np.arange(20).repeat(3), 100)]).min() == 1


def test_a_copy_of_cifar100_is_read_as_long_tailed(tmp_path: Path) -> None:
    cifar.write100(tmp_path / "cifar-100-python")
    whole, tailed = read(tmp_path, classes=100), read(tmp_path, classes=100, imbalance=100)
    assert len(tailed.splits["train"]) < len(whole.splits["train"]) and len(tailed.splits["val"]) == 0
    assert tailed.splits["test"].labels.tolist() == whole.splits["test"].labels.tolist()
    assert tailed.class_names == whole.class_names and tailed.digest != whole.digest
    own = {whole.splits["train"].identity(place) for place in range(len(whole.splits["train"]))}
    assert {tailed.splits["train"].identity(place) for place in range(len(tailed.splits["train"]))} <= own
