"""CoOp's splits: miniatures in their format, from reader to training images of a few-shot suite, and files that are refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from miniatures import content, coop, decoded

from vpbench.core.errors import DataError, WrongCountsError
from vpbench.data.cache import prepare
from vpbench.data.catalog import DatasetCard, dataset_card
from vpbench.data.sources import open_dataset
from vpbench.planning.suites import apply_protocol, suite_card
from vpbench.spec.run_spec import Preprocess

# Classes, training, validation and test images; CoOp's paper, appendix A.
COUNTS = {
    "food101": (101, 50500, 20200, 30300),
    "pets": (37, 2944, 736, 3669),
    "cars": (196, 6509, 1635, 8041),
    "flowers": (102, 4093, 1633, 2463),
}


def mini(dataset: str) -> DatasetCard:
    return dataset_card(f"{dataset}-coop").model_copy(update={"classes": 3, "n_train": 12, "n_val": 3, "n_test": 6})


def written(root: Path, dataset: str, inside: str = "") -> Path:
    """A miniature below the data root; the folder that has its split file."""
    card = mini(dataset)
    folder = root / card.folders[0] / inside
    coop.write(folder, content(train=4, val=1, test=2), str(card.options["split"]), str(card.options.get("images", "")))
    return folder


@pytest.mark.parametrize("dataset", COUNTS)
def test_from_the_file_to_few_training_images(dataset: str, tmp_path: Path) -> None:
    card, own = mini(dataset), dataset_card(dataset)
    whole = dataset_card(f"{dataset}-coop")
    assert (whole.classes, whole.n_train, whole.n_val, whole.n_test) == COUNTS[dataset]
    assert (whole.group, whole.licence, whole.decoding) == (own.group, own.licence, own.decoding)
    assert set(own.folders) == set(whole.folders)
    written(tmp_path, dataset)
    raw = open_dataset(card, tmp_path)
    assert raw.class_names == coop.NAMES
    for name, split in raw.splits.items():
        assert [decoded(split.image(index)) for index in range(len(split))] == [(label, name) for label in split.labels]
    suite = suite_card("noah-fewshot-coop-2")
    few = [apply_protocol(raw, suite, seed=seed) for seed in suite.seeds]
    assert all([len(split) for split in each.splits.values()] == [6, 3, 6] for each in few)
    assert len({each.splits["train"].digest for each in few}) > 1
    assert prepare(few[0], Preprocess(), 16, tmp_path / "cache").train.images.shape == (6, 16, 16, 3)


@pytest.mark.parametrize(("dataset", "inside"), [("food101", "food-101"), ("pets", "oxford-iiit-pet")])
def test_the_file_lies_beside_the_images_or_above(dataset: str, inside: str, tmp_path: Path) -> None:
    folder, file = written(tmp_path, dataset, inside), str(mini(dataset).options["split"])
    digest = open_dataset(mini(dataset), tmp_path).digest
    (folder / file).rename(folder.parent / file)
    assert open_dataset(mini(dataset), tmp_path).digest == digest


def add(part: str, *entries: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda lists: {**lists, part: [*lists[part], *entries]}


FIRST = "abyssinian/train0.jpg"
BAD: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "no lists": (lambda lists: [1], "must hold the lists train, val, test"),
    "a list is missing": (lambda lists: {"train": lists["train"], "test": lists["test"]}, "must hold the lists train, val, test"),
    "an empty list": (lambda lists: {**lists, "test": []}, "the test list is empty"),
    "no name": (add("val", ["a.jpg", 1]), r'\["a.jpg", 1\] of val is not \[image path, class id, class name\]'),
    "a class id that is text": (add("test", ["a.jpg", "1", "x"]), r'\["a.jpg", "1", "x"\] of test is not'),
    "a class id that is true": (add("test", ["a.jpg", True, "x"]), r'\["a.jpg", true, "x"\] of test is not'),
    "two names": (add("val", ["a.jpg", 0, "x"]), "class 0 is called 'abyssinian' and, for a.jpg of val, 'x'"),
    "twice in a list": (add("train", [FIRST, 0, coop.NAMES[0]]), f"images/{FIRST} is in the train list more than once"),
    "in two lists": (add("test", [FIRST, 0, coop.NAMES[0]]), f"{FIRST} is in the train list and in the test list"),
    "a class without training images": (add("test", ["a.jpg", 7, "x"]), "of the test list has class '7'"),
    "no such image": (add("train", ["a/b.jpg", 0, coop.NAMES[0]]), "images/a/b.jpg is missing"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_file_that_is_refused(case: str, tmp_path: Path) -> None:
    change, message = BAD[case]
    file = written(tmp_path, "pets") / str(mini("pets").options["split"])
    file.write_text(json.dumps(change(json.loads(file.read_text()))))
    with pytest.raises(DataError, match=message) as caught:
        open_dataset(mini("pets"), tmp_path)
    assert str(file.parent) in str(caught.value) and "\n" not in str(caught.value)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    file = written(tmp_path, "pets") / str(mini("pets").options["split"])
    with pytest.raises(WrongCountsError, match="must have n_val = 736, here it is 3"):
        open_dataset(mini("pets").model_copy(update={"n_val": 736}), tmp_path)
    for text in ("{", "[" * 100_000):
        file.write_text(text)
        with pytest.raises(DataError, match="is not valid JSON"):
            open_dataset(mini("pets"), tmp_path)
    file.unlink()
    with pytest.raises(DataError, match=r"split_zhou_OxfordPets.json is missing; https://github.com/.*/DATASETS.md links it\.$"):
        open_dataset(mini("pets"), tmp_path)
