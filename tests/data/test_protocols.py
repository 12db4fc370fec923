"""What protocols do with a data set's splits."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from vpbench.core.errors import DataError
from vpbench.data.catalog import dataset_card
from vpbench.data.protocols import split_sha256, with_all_for_training, with_few_shots, with_validation
from vpbench.data.raw import PixelSplit, RawData, RawSplit
from vpbench.data.sources import open_dataset


def make(counts: tuple[int, int, int] = (40, 0, 8)) -> RawData:
    rng = np.random.default_rng(0)
    splits: dict[str, RawSplit] = {
        name: PixelSplit(rng.integers(0, 256, (count, 4, 4), dtype=np.uint8), np.arange(count) % 4, name)
        for name, count in zip(("train", "val", "test"), counts, strict=True)
    }
    return RawData.of(["a", "b", "c", "d"], splits)


def test_held_out_images_are_train_images_of_every_class() -> None:
    raw = make()
    split = with_validation(raw, 10)
    train, val = split.splits["train"], split.splits["val"]
    assert (len(train), len(val)) == (30, 10)
    assert sorted(train.identities + val.identities) == sorted(raw.splits["train"].identities)
    assert set(np.bincount(val.labels)) <= {2, 3}
    assert split.digest == with_validation(make(), 10).digest != raw.digest
    for part in (train, val):
        for index in range(len(part)):  # labels travel with their images
            place = raw.splits["train"].identities.index(part.identities[index])
            assert part.labels[index] == raw.splits["train"].labels[place]
            assert part.content(index) == raw.splits["train"].content(place)
            assert part.name(index) == raw.splits["train"].name(place)


def test_train_and_validation_images_together() -> None:
    raw = make((6, 4, 8))
    merged = with_all_for_training(raw)
    assert merged.splits["train"].identities == raw.splits["train"].identities + raw.splits["val"].identities
    assert merged.splits["train"].labels.tolist() == [0, 1, 2, 3, 0, 1, 0, 1, 2, 3]
    assert len(merged.splits["val"]) == 0
    assert merged.splits["test"] is raw.splits["test"]
    assert merged.digest != raw.digest


@pytest.mark.parametrize("shots", [1, 3, 10, 50])
def test_few_shots_of_every_class(shots: int) -> None:
    few = with_few_shots(make(), shots).splits["train"]
    assert np.bincount(few.labels).tolist() == [min(shots, 10)] * 4
    more = with_few_shots(make(), shots + 1).splits["train"]
    assert set(few.identities) <= set(more.identities)


def test_draws_differ_and_are_those_of_their_seed() -> None:
    raw = make()
    draws = [with_few_shots(raw, 3, draw).splits["train"].identities for draw in (0, 1, 2)]
    assert draws[0] == with_few_shots(raw, 3).splits["train"].identities
    assert len({tuple(draw) for draw in draws}) == 3
    assert draws[2] == with_few_shots(make(), 3, 2).splits["train"].identities
    assert set(draws[1]) <= set(with_few_shots(raw, 4, 1).splits["train"].identities)


def test_split_list_is_hashed_by_name_and_class() -> None:
    raw = make((4, 0, 4))
    lines = [f"{split}\timage {index} of {split}\t{'abcd'[index]}\n" for split in ("train", "test") for index in range(4)]
    assert split_sha256(raw) == hashlib.sha256("".join(lines).encode()).hexdigest()


def test_a_split_list_that_is_not_the_cards(tmp_path: Path) -> None:
    card = dataset_card("digits")
    right = card.model_copy(update={"split_sha256": split_sha256(open_dataset(card))})
    assert len(open_dataset(right).splits["train"]) == 800
    wrong = card.model_copy(update={"n_val": 199})
    with pytest.raises(DataError, match="n_val = 199, here it is 200"):
        open_dataset(wrong, tmp_path)
