"""The published data sets with masks: miniatures in their exact formats, and damaged copies."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from miniatures import ade20k, decoded, encoded, put, voc

from vpbench.core.errors import DataError, WrongCountsError
from vpbench.data.catalog import dataset_card
from vpbench.data.raw import RawData
from vpbench.data.sources import open_dataset, read_dataset

WRITERS = {"ade20k": ade20k.write, "voc": voc.write}
BASES = {"ade20k": "ADEChallengeData2016", "voc": "VOCdevkit/VOC2012"}


def opened(root: Path, name: str) -> RawData:
    if not (root / name).exists():
        WRITERS[name](root / name)
    return read_dataset(dataset_card(name), root)


@pytest.mark.parametrize(("name", "classes", "train", "test"), [("ade20k", 150, 20_210, 2_000), ("voc", 21, 1_464, 1_449)])
def test_card(name: str, classes: int, train: int, test: int, tmp_path: Path) -> None:
    card = dataset_card(name)
    assert (card.classes, card.n_train, card.n_val, card.n_test, card.target) == (classes, train, 0, test, "mask")
    raw = opened(tmp_path, name)
    assert len(raw.class_names) == classes
    assert [len(raw.splits[split]) for split in ("train", "val", "test")] == [4, 0, 3]
    with pytest.raises(WrongCountsError, match=f"must have n_train = {train}, here it is 4"):
        open_dataset(card, tmp_path)


def test_ade20k(tmp_path: Path) -> None:
    raw = opened(tmp_path, "ade20k")
    assert raw.class_names[:2] == ("kind 1", "kind 2")
    test = raw.splits["test"]
    assert test.short_name(2) == "images/validation/ADE_val_00000003.jpg"
    assert decoded(test.image(2)) == (1, "test")
    mask = test.mask(2, (20, 16))
    expected = ade20k.mask("test", 2).astype(int) - 1
    expected[:3, :-4] = 255  # other objects
    assert mask.dtype == np.uint8 and np.array_equal(mask, expected)


def test_voc(tmp_path: Path) -> None:
    raw = opened(tmp_path, "voc")
    assert raw.class_names[0] == "background" and raw.class_names[20] == "tvmonitor"
    assert np.array_equal(raw.splits["train"].mask(3, (20, 16)), voc.mask(3))
    assert decoded(raw.splits["test"].image(0)) == (1, "test")


def test_splits_and_masks_are_part_of_the_digest(tmp_path: Path) -> None:
    before = opened(tmp_path, "voc").digest
    put(tmp_path / "voc/VOCdevkit/VOC2012/SegmentationClass/2007_000001.png", voc.palette(voc.mask(1, 97)))
    assert opened(tmp_path, "voc").digest != before


def lone_mask(base: Path) -> None:
    (base / "images/training/ADE_train_00000002.jpg").unlink()


def lone_image(base: Path) -> None:
    (base / "annotations/validation/ADE_val_00000001.png").unlink()


def no_table(base: Path) -> None:
    (base / "objectInfo150.txt").unlink()


def short_table(base: Path) -> None:
    put(base / "objectInfo150.txt", "Idx\tName\n1\twall\n")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lone_mask, r"annotations/training/ADE_train_00000002.png is there, and images/training/ADE_train_00000002.jpg is"),
        (lone_image, r"images/validation/ADE_val_00000001.jpg is there, and annotations/validation/ADE_val_00000001.png is"),
        (no_table, r"objectInfo150.txt is missing"),
        (short_table, r"does not list classes 1 to 150"),
    ],
)
def test_incomplete_ade20k(tmp_path: Path, damage: Callable[[Path], None], message: str) -> None:
    opened(tmp_path, "ade20k")
    damage(tmp_path / "ade20k" / BASES["ade20k"])
    with pytest.raises(DataError, match=message):
        opened(tmp_path, "ade20k")


def test_incomplete_voc(tmp_path: Path) -> None:
    opened(tmp_path, "voc")
    for name in ("2007_000001", "2007_000002"):
        (tmp_path / f"voc/VOCdevkit/VOC2012/SegmentationClass/{name}.png").unlink()
    with pytest.raises(
        DataError, match=r"2007_000001.png is missing \(and 1 more file\); the copy of the data set is incomplete"
    ):
        opened(tmp_path, "voc")


def test_masks_that_do_not_fit(tmp_path: Path) -> None:
    raw, base = opened(tmp_path, "ade20k"), tmp_path / "ade20k" / BASES["ade20k"] / "annotations/training"
    train = raw.splits["train"]
    with pytest.raises(DataError, match=r"00000001.png is 20 x 16 pixels large and its image 21 x 16"):
        train.mask(0, (21, 16))
    put(base / "ADE_train_00000001.png", encoded(np.full((16, 20), 151, np.uint8), "png"))
    with pytest.raises(DataError, match=r"00000001.png has the value 151, and the 150 classes have the values 1 to 150"):
        train.mask(0, (20, 16))
    put(base / "ADE_train_00000001.png", encoded(np.zeros((16, 20, 3), np.uint8), "png"))
    with pytest.raises(DataError, match=r"00000001.png has the mode RGB; a mask needs one channel"):
        train.mask(0, (20, 16))
