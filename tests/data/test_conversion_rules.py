"""Labels and splits of converted data sets: the rules."""

from __future__ import annotations

import numpy as np
import pytest
from miniatures.vtab import NAMES

from vpbench.data.catalog import dataset_card
from vpbench.data.conversion import labels
from vpbench.data.conversion.draws import drawn
from vpbench.data.conversion.tfds import RULES

# Label rules


def test_clevr_count() -> None:
    assert [labels.clevr_count(objects) for objects in (3, 7, 10)] == [0, 4, 7]


@pytest.mark.parametrize(
    ("depths", "label"),
    [([0.1], 0), ([8.0], 0), ([8.01], 1), ([8.5], 1), ([9.0, 8.6], 2), ([9.5], 3), ([9.51], 4), ([10.0], 4), ([10.1, 12.0], 5)],
)
def test_clevr_distance(depths: list[float], label: int) -> None:
    assert labels.clevr_distance(depths) == label


@pytest.mark.parametrize(
    ("kinds", "depths", "label"),
    [
        (["Car"], [8.0], 0),
        (["Van"], [8.1], 1),
        (["Truck"], [20.0], 1),
        (["Car"], [20.5], 2),
        (["Pedestrian"], [3.0], 3),
        ([], [], 3),
        (["Tram", "Cyclist", "Misc", "Person_sitting", "Car"], [1.0, 2.0, 3.0, 4.0, 30.0], 2),
        (["Car", "Van"], [25.0, 5.0], 0),
        (["Car"], [-1.5], 0),
    ],
)
def test_kitti_distance(kinds: list[str], depths: list[float], label: int) -> None:
    assert labels.kitti_distance(kinds, depths) == label


def test_dsprites_bins() -> None:
    """Two columns to a bin; 2.5 orientations, that is 3 and 2 in turn."""
    assert [labels.dsprites_bin(value, 32) for value in (0, 1, 2, 15, 16, 31)] == [0, 0, 1, 7, 8, 15]
    assert [labels.dsprites_bin(value, 40) for value in range(11)] == [0, 0, 0, 1, 1, 2, 2, 2, 3, 3, 4]
    assert [labels.dsprites_bin(value, 40) for value in (37, 38, 39)] == [14, 15, 15]
    for steps in labels.DSPRITES_STEPS.values():
        assert [labels.dsprites_bin(value, steps) for value in range(steps)] == [
            int(value // (steps / 16)) for value in range(steps)
        ]


def test_norb_angles() -> None:
    assert [labels.norb_azimuth(info) for info in (0, 2, 34, 3)] == [0, 1, 17, -1]
    assert [labels.norb_elevation(info) for info in (0, 8)] == [0, 8]


def test_rules_use_all_classes_of_their_card() -> None:
    assert dataset_card("vtab.clevr-distance").classes == len(labels.CLEVR_DISTANCES) - 1
    assert dataset_card("vtab.kitti").classes == len(labels.KITTI_DISTANCES)
    assert dataset_card("vtab.clevr-count").options["names"] == [str(objects) for objects in range(3, 11)]


# Split rules

# Images of TFDS's splits, from its catalogue (www.tensorflow.org/datasets/catalog).
TFDS_SIZES = {
    "cifar100": {"train": 50_000, "test": 10_000},
    "caltech101": {"train": 3_060, "test": 6_084},
    "dtd": {"train": 1_880, "validation": 1_880, "test": 1_880},
    "oxford_flowers102": {"train": 1_020, "validation": 1_020, "test": 6_149},
    "oxford_iiit_pet": {"train": 3_680, "test": 3_669},
    "svhn_cropped": {"train": 73_257, "test": 26_032, "extra": 531_131},
    "sun397/tfds": {"train": 76_128, "validation": 10_875, "test": 21_750},
    "patch_camelyon": {"train": 262_144, "validation": 32_768, "test": 32_768},
    "eurosat/rgb": {"train": 27_000},
    "resisc45": {"train": 31_500},
    "diabetic_retinopathy_detection/btgraham-300": {"train": 35_126, "validation": 10_906, "test": 42_670},
    "clevr": {"train": 70_000, "validation": 15_000, "test": 15_000},
    "dmlab": {"train": 65_550, "validation": 22_628, "test": 22_735},
    "kitti": {"train": 6_347, "validation": 423, "test": 711},
    "dsprites": {"train": 737_280},
    "smallnorb": {"train": 24_300, "test": 24_300},
}
VALIDATION_STARTS = {
    "cifar100": 45_000, "caltech101": 2_754, "pets": 2_944, "svhn": 65_931, "eurosat": 16_200, "resisc45": 18_900,
    "clevr-count": 63_000, "clevr-distance": 63_000, "dsprites-location": 589_824, "dsprites-orientation": 589_824,
}  # fmt: skip
TEST_STARTS = {
    "eurosat": 21_600, "resisc45": 25_200, "dsprites-location": 663_552, "dsprites-orientation": 663_552,
    "smallnorb-azimuth": 12_150, "smallnorb-elevation": 12_150,
}  # fmt: skip


def test_every_task_has_a_rule() -> None:
    assert sorted(RULES) == sorted(NAMES)
    for name, rule in RULES.items():
        assert dataset_card(name).revision == f"tfds {rule.name} {rule.versions[0]}"


@pytest.mark.parametrize("name", NAMES)
def test_splits_have_the_published_sizes(name: str) -> None:
    card, rule, short = dataset_card(name), RULES[name], name.removeprefix("vtab.")
    taken = {split: (part.split, *part.range(TFDS_SIZES[rule.name][part.split])) for split, part in rule.parts.items()}
    assert taken["train"] == ("train", 0, 800)
    assert taken["val"][1] == VALIDATION_STARTS.get(short, 0)
    assert taken["test"][1] == TEST_STARTS.get(short, 0)
    counts = {"train": card.n_train, "val": card.n_val, "test": card.n_test}
    assert {split: last - first for split, (_, first, last) in taken.items()} == counts
    for first, second in (("train", "val"), ("val", "test"), ("train", "test")):
        (name_a, start_a, end_a), (name_b, start_b, end_b) = taken[first], taken[second]
        assert name_a != name_b or end_a <= start_b or end_b <= start_a


def test_our_own_split_is_the_same_everywhere() -> None:
    split = drawn(1000, {"train": 8, "val": 4, "test": 80})
    assert [len(rows) for rows in split.values()] == [8, 4, 80]
    assert len(set(np.concatenate(list(split.values())).tolist())) == 92
    assert split["val"].tolist() == drawn(1000, {"train": 8, "val": 4, "test": 3})["val"].tolist()
    # Published lists must not move with a new NumPy.
    assert split["train"].tolist() == [27, 231, 298, 553, 672, 859, 971, 993]
