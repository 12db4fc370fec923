"""Damaged copies of the data sets of FGVC and HTA: what is missing, wrong or cut is said in one line."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import miniatures
import numpy as np
import pytest
from fgvc_and_hta import MINIATURES, PLAIN, complaint, opened
from miniatures import (
    cars,
    cifar,
    dogs,
    flowers,
    svhn,
)  # fmt: skip
from sweeps import some

from vpbench.core.errors import DataError
from vpbench.data.cache import SplitCache, prepare
from vpbench.data.catalog import dataset_card
from vpbench.data.sources import open_dataset
from vpbench.spec.run_spec import Preprocess


def change(file: str, edit: Callable[[str], str]) -> Callable[[Path], None]:
    """Edits the first text file that the pattern finds."""

    def damage(folder: Path) -> None:
        path = sorted(folder.glob(file))[0]
        path.write_text(edit(path.read_text()))

    return damage


def halve(file: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        path = sorted(folder.glob(file))[0]
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    return damage


def replace(file: str, data: bytes | str) -> Callable[[Path], None]:
    return lambda folder: miniatures.put(folder / file, data)


def remove(file: str) -> Callable[[Path], None]:
    return lambda folder: sorted(folder.glob(file))[0].unlink()


def flower_mats(folder: Path, label: int = 1, test: int = 15) -> None:
    sets = {"trnid": list(range(1, 13)), "valid": [13, 14], "tstid": [test, *range(16, 22)]}
    flowers.write_mats(folder, [label] * 21, sets)


def dog_mat(folder: Path, **entries: int) -> None:
    dogs.write_mat(folder / "test_list.mat", list(entries), list(entries.values()))


def svhn_mat(folder: Path, labels: Sequence[int], shape: tuple[int, ...] = (32, 32, 3, 2)) -> None:
    svhn.write_mat(folder / "train_32x32.mat", np.zeros(shape, np.uint8), list(labels))


def batch(folder: Path, **entries: Any) -> None:
    """A test file of CIFAR-10 with other entries."""
    miniatures.put(folder / "test_batch", cifar.pickled({**cifar.batch("test", [0, 1, 2], "labels"), **entries}))


def as_json(file: str, edit: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    return change(file, lambda text: json.dumps(edit(json.loads(text))))


def add_test_image_to_train(folder: Path) -> None:
    test = json.loads((folder / "test.json").read_text())
    as_json("train.json", lambda members: {**members, **dict(list(test.items())[:2])})(folder)


FILES = [name for name in MINIATURES if MINIATURES[name].dataset not in ("cifar10", "cifar100", "svhn")]

BAD: dict[str, tuple[str, Callable[[Path], None], str]] = {
    "cub: class out of range": (
        "cub",
        change("image_class_labels.txt", lambda text: text.replace("21 3\n", "21 9\n")),
        r"image_class_labels\.txt: image 21 has class 9, which classes\.txt lacks",
    ),
    "cub: class is no number": ("cub", change("classes.txt", lambda text: "x y\n" + text), "class id 'x' is no number"),
    "cub: image without label": (
        "cub",
        change("image_class_labels.txt", lambda text: text.replace("21 3\n", "")),
        r"image_class_labels\.txt has no line for image 21",
    ),
    "cub: image without split": (
        "cub",
        change("train_test_split.txt", lambda text: text.replace("21 0\n", "")),
        r"train_test_split\.txt has no line for image 21",
    ),
    "cub: strange split": (
        "cub",
        change("train_test_split.txt", lambda text: text.replace("21 0", "21 2")),
        r"image 21 has '2'; it must be 1 \(train\) or 0 \(test\)",
    ),
    "cub: id twice": ("cub", change("images.txt", lambda text: text + "1 x.jpg\n"), r"images\.txt: id 1 is there twice"),
    "cub: half a line": ("cub", change("images.txt", lambda text: text + "22\n"), r"images\.txt: '22' is not an id and a value"),
    "cub: no text": ("cub", replace("images.txt", b"\xff\xfe\x00\x01"), r"images\.txt is not a text file"),
    "cub: no list": ("cub", remove("images.txt"), r"images\.txt is missing; the copy of the data set is incomplete"),
    "cub: no training": (
        "cub",
        replace("train_test_split.txt", "".join(f"{n} 0\n" for n in range(1, 22))),
        "train list is empty",
    ),
    "nabirds: class out of range": (
        "nabirds",
        change("image_class_labels.txt", lambda text: text.replace(" 975\n", " 1011\n")),
        "has class 1011, which classes.txt lacks",
    ),
    "lists: overlap": ("cub, lists", add_test_image_to_train, r"is in the train list and in the test list \(and 1 more\)"),
    "lists: one missing": ("cub, lists", remove("val.json"), r"val\.json is missing beside the other lists"),
    "lists: no JSON": ("dogs, lists", halve("test.json"), r"test\.json is not valid JSON"),
    "lists: no text": ("dogs, lists", replace("test.json", b"\xff\xfe\x00"), r"test\.json is not valid JSON"),
    "lists: no mapping": ("dogs, lists", replace("val.json", "[1]"), r"val\.json must hold .* not a list"),
    "lists: strange id": (
        "nabirds, lists",
        as_json("test.json", lambda members: dict.fromkeys(members)),
        r"test\.json: .* has class id None; it must be a whole number or text",
    ),
    "lists: ids of two kinds": (
        "nabirds, lists",
        as_json("test.json", lambda members: {path: str(key) for path, key in members.items()}),
        "as numbers and as text",
    ),
    "lists: image twice": (
        "cars, lists",
        change("train.json", lambda text: text[:-1] + ", " + text[1:]),
        r"train\.json: cars_train/train00000\.jpg is listed twice",
    ),
    "lists: class without training": (
        "flowers, lists from 1",
        as_json("test.json", lambda members: dict.fromkeys(members, 103)),
        r"has class '103', of which training has no image \(and 5 more\)",
    ),
    "lists: empty": ("cub, lists", replace("test.json", "{}"), "the test list is empty"),
    "flowers: label out of range": (
        "flowers",
        lambda folder: flower_mats(folder, label=103),
        "has label 103; it must be 1 to 102",
    ),
    "flowers: overlap": (
        "flowers",
        lambda folder: flower_mats(folder, test=3),
        "image_00003.jpg is in the train list and in the",
    ),
    "flowers: image without label": ("flowers", lambda folder: flower_mats(folder, test=22), "image 22 of test has no label"),
    "flowers: half a .mat": ("flowers", halve("setid.mat"), r"setid\.mat is not a readable \.mat file"),
    "flowers: no .mat": ("flowers", remove("setid.mat"), r"setid\.mat is missing"),
    "flowers: another .mat": (
        "flowers",
        lambda folder: dogs.write_mat(folder / "setid.mat", ["a"], [1]),
        r"setid\.mat has no 'trnid'",
    ),
    "dogs: label out of range": ("dogs", lambda folder: dog_mat(folder, a=121), r"a has label 121; it must be 1 to 120"),
    "dogs: overlap": (
        "dogs",
        lambda folder: dogs.write_mat(folder / "test_list.mat", ["n02085620-Chihuahua/n02085620_1.jpg"], [1]),
        "is in the train list and in the test list",
    ),
    "dogs: half a .mat": ("dogs", halve("train_list.mat"), r"train_list\.mat is not a readable \.mat file"),
    "dogs: no lists": ("dogs", remove("train_list.mat"), r"train_list\.mat is missing"),
    "cars: label out of range": (
        "cars",
        lambda folder: cars.write_mat(folder / "devkit/cars_train_annos.mat", [("00001.jpg", 4)]),
        r"cars_train/00001\.jpg has label 4; it must be 1 to 3",
    ),
    "cars: half a .mat": ("cars", halve("devkit/cars_meta.mat"), r"cars_meta\.mat is not a readable \.mat file"),
    "cars: no labelled test": ("cars", remove("devkit/cars_test*"), r"cars_test_annos_withlabels\.mat is missing"),
    "cars: unlabelled test": (
        "cars",
        lambda folder: svhn.write_mat(folder / "devkit/cars_train_annos.mat", np.zeros((32, 32, 3, 1)), [1]),
        r"cars_train_annos\.mat has no 'annotations'",
    ),
    "dtd: overlap": (
        "dtd",
        change("labels/test1.txt", lambda text: text + "banded/banded_0001.jpg\n"),
        r"images/banded/banded_0001\.jpg is in the train list and in the test list",
    ),
    "dtd: no CLASS/IMAGE": ("dtd", change("labels/val1.txt", lambda text: text + "x.jpg\n"), "'x.jpg' is not CLASS/IMAGE"),
    "dtd: no text": ("dtd", replace("labels/val1.txt", b"\x89PNG\r\n\xff"), r"val1\.txt is not a text file"),
    "food101: strange class": (
        "food101",
        change("meta/test.txt", lambda text: text + "\nwaffles/1\n"),
        r"test\.txt: images/waffles/1\.jpg has class 'waffles', which classes\.txt lacks",
    ),
    "food101: overlap": (
        "food101",
        change("meta/test.txt", lambda text: text + "\napple_pie/1005649"),
        "is in the train list and",
    ),
    "aircraft: strange variant": (
        "aircraft",
        change("images_variant_val.txt", lambda text: text.replace("F/A-18", "F/A 18")),
        r"images_variant_val\.txt: image \d+ has variant 'F/A 18', which variants\.txt lacks",
    ),
    "aircraft: no list": ("aircraft", remove("images_variant_test.txt"), r"images_variant_test\.txt is missing"),
    "aircraft: overlap": (
        "aircraft",
        change("images_variant_test.txt", lambda text: text + "\n1025794 707-320"),
        "is in the train list and in the test list",
    ),
    "pets: class out of range": (
        "pets",
        change("annotations/test.txt", lambda text: text.replace(" 3 2 1", " 38 2 1", 1)),
        r"test\.txt: american_pit_bull_terrier_\d+ has class 38; it must be 1 to 37",
    ),
    "pets: half a line": (
        "pets",
        change("annotations/test.txt", lambda text: text + "\nBombay_1"),
        "'Bombay_1' is not IMAGE CLASS SPECIES BREED",
    ),
    "pets: no lists": ("pets", remove("annotations/trainval.txt"), r"trainval\.txt is missing"),
    "gtsrb: class out of range": (
        "gtsrb",
        change("GT-final_test.csv", lambda text: text.replace(";2\n", ";43\n")),
        r"Final_Test/Images/00002\.ppm of the test list has label 43; it must be 0 to 42",
    ),
    "gtsrb: class is no number": (
        "gtsrb",
        change("GT-final_test.csv", lambda text: text.replace(";2\n", ";two\n")),
        r"'00002\.ppm' has class 'two'; it must be 0 to 42",
    ),
    "gtsrb: test without labels": (
        "gtsrb",
        change("GT-final_test.csv", lambda text: text.replace(";ClassId", "")),
        "has no column 'ClassId'; it must be the list with classes",
    ),
    "gtsrb: no CSV": ("gtsrb", remove("GTSRB/Training/00001/*.csv"), r"GT-00001\.csv is missing"),
    "gtsrb: no track": (
        "gtsrb",
        change("GTSRB/Training/00000/*.csv", lambda text: text.replace("00000_00000.ppm", "a.ppm")),
        "a training image must be called TRACK_FRAME.ppm",
    ),
    "gtsrb: other release": ("gtsrb, final", lambda folder: gtsrb_without(folder, "Final_Training"), "Images is missing"),
    "svhn: label out of range": ("svhn", lambda folder: svhn_mat(folder, [1, 11]), "image 1 has label 11; it must be 1 to 10"),
    "svhn: label 0": ("svhn", lambda folder: svhn_mat(folder, [1, 0]), "image 1 has label 0; it must be 1 to 10"),
    "svhn: other shape": ("svhn", lambda folder: svhn_mat(folder, [1, 2], (2, 32, 32, 3)), r"X is uint8 \(2, 32, 32, 3\)"),
    "svhn: too few labels": ("svhn", lambda folder: svhn_mat(folder, [1]), "has 2 images and 1 labels"),
    "svhn: class without training": (
        "svhn",
        lambda folder: svhn_mat(folder, [1, 2]),
        "test has class '0', of which training has",
    ),
    "svhn: half a .mat": ("svhn", halve("train_32x32.mat"), r"train_32x32\.mat is not a readable \.mat file"),
    "svhn: no .mat": ("svhn", remove("test_32x32.mat"), r"test_32x32\.mat is missing"),
    "cifar10: label out of range": (
        "cifar10",
        lambda folder: batch(folder, labels=[0, 3, 2]),
        "test_batch: image 1 has class 3; it must be 0 to 2",
    ),
    "cifar10: too few labels": ("cifar10", lambda folder: batch(folder, labels=[0, 1]), "has 3 images and 2 labels"),
    "cifar10: labels of text": ("cifar10", lambda folder: batch(folder, labels=["a", "b", "c"]), "a list of whole numbers"),
    "cifar10: other rows": ("cifar10", lambda folder: batch(folder, data=np.zeros((3, 5), np.uint8)), "rows of 3,072 bytes"),
    "cifar10: half a pickle": ("cifar10", halve("data_batch_3"), "data_batch_3 is not a complete pickle"),
    "cifar10: empty file": ("cifar10", replace("data_batch_2", b""), "data_batch_2 is not a complete pickle"),
    "cifar10: no pickle": ("cifar10", replace("batches.meta", b"\x89PNG\r\n"), r"batches\.meta is not a complete pickle"),
    "cifar10: a list": ("cifar10", replace("test_batch", pickle.dumps([1], 2)), "holds a list, not CIFAR's dictionary"),
    "cifar10: no names": ("cifar10", replace("batches.meta", pickle.dumps({"a": 1}, 2)), "'label_names' must be a list"),
    "cifar10: no batch": ("cifar10", remove("data_batch_4"), "data_batch_4 is missing"),
    "cifar100: not CIFAR-100": ("cifar100", lambda folder: miniatures.put(folder / "train", b"N."), "holds a NoneType"),
}


def gtsrb_without(folder: Path, name: str) -> None:
    (folder / "GTSRB" / name).rename(folder / "elsewhere")


@pytest.mark.parametrize("case", some(BAD, 20))
def test_bad_copy(tmp_path: Path, case: str) -> None:
    name, damage, match = BAD[case]
    mini = MINIATURES[name]
    opened(mini, mini.written(tmp_path))
    damage(tmp_path / mini.folder)
    complaint(mini, tmp_path, match)


@pytest.mark.parametrize("name", PLAIN)
def test_missing_folder(tmp_path: Path, name: str) -> None:
    line = complaint(MINIATURES[name], tmp_path, f"is not in .*: no folder '{name}' or '")
    assert dataset_card(name).how_to_get in line


@pytest.mark.parametrize("name", some(FILES, 6))
def test_one_image_is_missing(tmp_path: Path, name: str) -> None:
    mini = MINIATURES[name]
    raw = opened(mini, mini.written(tmp_path))
    lost = raw.splits["test"].name(3)
    Path(lost).unlink()
    assert complaint(mini, tmp_path, "is missing; the copy of the data set is incomplete").startswith(f"{lost} is missing;")


@pytest.mark.parametrize("name", some(FILES, 6))
def test_truncated_image_is_found_when_the_cache_is_built(tmp_path: Path, name: str) -> None:
    mini = MINIATURES[name]
    raw = opened(mini, mini.written(tmp_path))
    broken = Path(raw.splits["train"].name(2))
    broken.write_bytes(broken.read_bytes()[: broken.stat().st_size * 2 // 3])
    damaged = opened(mini, tmp_path)
    with pytest.raises(DataError, match="cannot be read as an image") as caught:
        prepare(damaged, Preprocess(), 16, tmp_path / "cache")
    assert str(caught.value).startswith(str(broken))
    assert "\n" not in str(caught.value)
    plan = SplitCache.of(tmp_path / "cache", damaged.splits["train"], Preprocess(), 16, True)
    assert plan.load() is None  # the other splits' caches are whole, and stay


@pytest.mark.parametrize("name", some(PLAIN, 4))
@pytest.mark.parametrize("count", ["classes", "n_train", "n_test"])
def test_wrong_counts(tmp_path: Path, name: str, count: str) -> None:
    mini = MINIATURES[name]
    card = mini.card.model_copy(update={"classes": 10} if name == "svhn" else {})
    with pytest.raises(DataError, match=f"must have {count} = {getattr(card, count) + 1}, here it is {getattr(card, count)}"):
        open_dataset(card.model_copy(update={count: getattr(card, count) + 1}), mini.written(tmp_path))
