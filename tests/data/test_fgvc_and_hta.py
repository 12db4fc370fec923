"""The data sets of FGVC and HTA: miniatures in their exact formats, real images in official layouts, and damaged copies."""

from __future__ import annotations

import io
import json
import os
import pickle
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import miniatures
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from miniatures import (
    aircraft,
    cars,
    cifar,
    content,
    cub,
    decoded,
    dogs,
    dtd,
    encoded,
    flowers,
    food101,
    gtsrb,
    nabirds,
    pets,
    picture,
    svhn,
)  # fmt: skip
from PIL import Image
from sweeps import some

from vpbench.core.errors import DataError
from vpbench.data.batches import Normaliser, training_batches
from vpbench.data.cache import SplitCache, prepare
from vpbench.data.catalog import DatasetCard, dataset_card
from vpbench.data.raw import RawData
from vpbench.data.sources import open_dataset, open_path, read_dataset
from vpbench.spec.run_spec import Preprocess

OFFICIAL = {
    "cub": (200, 5994, 5794),
    "nabirds": (555, 23929, 24633),
    "flowers": (102, 2040, 6149),
    "dogs": (120, 12000, 8580),
    "cars": (196, 8144, 8041),
    "dtd": (47, 3760, 1880),
    "food101": (101, 75750, 25250),
    "cifar10": (10, 50000, 10000),
    "cifar100": (100, 50000, 10000),
    "gtsrb": (43, 26640, 12630),
    "svhn": (10, 73257, 26032),
    "aircraft": (100, 6667, 3333),
    "pets": (37, 3680, 3669),
}


@dataclass(frozen=True)
class Mini:
    """A miniature: the data set's card, the folder below the data root, who writes it, and what its card must say."""

    dataset: str
    folder: str
    write: Callable[[Path], None]
    n_train: int
    n_val: int
    n_test: int
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def card(self) -> DatasetCard:
        counts = {"classes": 3, "n_train": self.n_train, "n_val": self.n_val, "n_test": self.n_test}
        card = dataset_card(self.dataset)
        return card.model_copy(update={**counts, "options": {**card.options, **self.options}})

    def written(self, root: Path) -> Path:
        """The root with the data set below it."""
        (root / self.folder).mkdir(parents=True, exist_ok=True)
        self.write(root / self.folder)
        return root


def official(writer: Callable[..., None], **more: Any) -> Callable[[Path], None]:
    """15 training and 6 test images."""
    return lambda folder: writer(folder, content(train=5, test=2), **more)


def listed(writer: Callable[..., None], **more: Any) -> Callable[[Path], None]:
    """12 training, 3 validation and 6 test images."""
    return lambda folder: writer(folder, content(train=4, val=1, test=2), **more)


def signs(**more: Any) -> Callable[[Path], None]:
    return lambda folder: gtsrb.write(folder, *gtsrb.signs(), **more)


# 18 tracks of 3 frames: of 12, 1 and 5 tracks of a class, 1, 0 and 1 are held out.
TRACKS = (48, 6, 6)
COUNTS = (12, 3, 6)

MINIATURES = {
    "cub": Mini("cub", "cub", official(cub.write), *COUNTS),
    "cub, archive's folder": Mini("cub", "CUB_200_2011", official(cub.write), *COUNTS),
    "cub, unpacked inside": Mini("cub", "cub/CUB_200_2011", official(cub.write), *COUNTS),
    "cub, lists": Mini("cub", "cub", listed(cub.write_json), *COUNTS),
    "cub, lists with images/": Mini("cub", "cub", listed(cub.write_json, below="images/"), *COUNTS),
    "nabirds": Mini("nabirds", "nabirds", official(nabirds.write), *COUNTS),
    "nabirds, lists": Mini("nabirds", "nabirds", listed(nabirds.write_json), *COUNTS),
    "flowers": Mini("flowers", "flowers", listed(flowers.write), *COUNTS),
    "flowers, torchvision's": Mini("flowers", "flowers-102", listed(flowers.write), *COUNTS),
    "flowers, lists from 1": Mini("flowers", "flowers", listed(flowers.write_json, first=1), *COUNTS),
    "flowers, lists from 0": Mini("flowers", "flowers", listed(flowers.write_json, first=0), *COUNTS),
    "dogs": Mini("dogs", "dogs", official(dogs.write), *COUNTS),
    "dogs, lists/": Mini("dogs", "dogs", official(dogs.write, lists="lists"), *COUNTS),
    "dogs, lists": Mini("dogs", "dogs", listed(dogs.write_json), *COUNTS),
    "cars": Mini("cars", "cars", official(cars.write), *COUNTS),
    "cars, torchvision's": Mini("cars", "cars/stanford_cars", official(cars.write, labelled=""), *COUNTS),
    "cars, lists": Mini("cars", "cars", listed(cars.write_json), *COUNTS),
    "dtd": Mini("dtd", "dtd", listed(dtd.write), *COUNTS),
    "dtd, unpacked inside": Mini("dtd", "dtd/dtd", listed(dtd.write), *COUNTS),
    "dtd, partition 3": Mini("dtd", "dtd", listed(dtd.write, partition=3), *COUNTS, options={"partition": 3}),
    "food101": Mini("food101", "food101", official(food101.write), *COUNTS),
    "food101, unpacked inside": Mini("food101", "food101/food-101", official(food101.write), *COUNTS),
    "cifar10": Mini("cifar10", "cifar10/cifar-10-batches-py", cifar.write10, *COUNTS),
    "cifar10, archive's folder": Mini("cifar10", "cifar-10-batches-py", cifar.write10, *COUNTS),
    "cifar100": Mini("cifar100", "cifar100/cifar-100-python", cifar.write100, *COUNTS),
    "cifar100, archive's folder": Mini("cifar100", "cifar-100-python", cifar.write100, *COUNTS),
    "gtsrb": Mini("gtsrb", "gtsrb", signs(), *TRACKS),
    "gtsrb, labels in GTSRB": Mini("gtsrb", "gtsrb", signs(labels="GTSRB"), *TRACKS),
    "gtsrb, final": Mini(
        "gtsrb", "gtsrb", signs(place="Final_Training/Images", labels="GTSRB/Final_Test/Images"), *TRACKS, {"release": "final"}
    ),
    "svhn": Mini("svhn", "svhn", lambda folder: svhn.write(folder, train=5, test=2), *COUNTS),
    "aircraft": Mini("aircraft", "aircraft", listed(aircraft.write), *COUNTS),
    "aircraft, unpacked inside": Mini("aircraft", "aircraft/fgvc-aircraft-2013b/data", listed(aircraft.write), *COUNTS),
    "aircraft, CoOp's folder": Mini("aircraft", "fgvc_aircraft", listed(aircraft.write), *COUNTS),
    "pets": Mini("pets", "pets", official(pets.write), *COUNTS),
    "pets, torchvision's": Mini("pets", "pets/oxford-iiit-pet", official(pets.write), *COUNTS),
}

# One of each data set.
PLAIN = [name for name in MINIATURES if name in OFFICIAL]


def opened(mini: Mini, root: Path) -> RawData:
    """The miniature as the engine opens it. SVHN always has ten classes."""
    card = mini.card
    return open_dataset(card.model_copy(update={"classes": 10}) if card.source == "svhn" else card, root)


@pytest.mark.parametrize("name", OFFICIAL)
def test_cards_are_complete_and_their_counts_are_the_official_ones(name: str) -> None:
    card = dataset_card(name)
    assert (card.classes, card.n_train + card.n_val, card.n_test) == OFFICIAL[name]
    assert card.group == ("fgvc" if name in ("cub", "nabirds", "flowers", "dogs", "cars", "aircraft", "pets") else "hta")
    assert card.folders[0] == name
    assert card.revision and card.licence and re.search("https?://", card.how_to_get)
    for download in card.downloads:
        assert download.md5 or download.sha256
        assert re.fullmatch("[0-9a-f]{32}", download.md5 or "0" * 32)
        assert re.fullmatch("[0-9a-f]{64}", download.sha256 or "0" * 64)
        assert download.unpack == download.path.endswith(("gz", "tar", "zip"))


@pytest.mark.parametrize("name", [name for name in MINIATURES if name in OFFICIAL or name.endswith("lists")])
def test_lists_may_begin_with_a_byte_order_mark(tmp_path: Path, name: str) -> None:
    root = MINIATURES[name].written(tmp_path)
    digest = opened(MINIATURES[name], root).digest
    for file in root.rglob("*"):
        if file.suffix in (".txt", ".csv", ".json"):
            file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert opened(MINIATURES[name], root).digest == digest


def test_coarse_classes_of_cifar100_are_20_of_5() -> None:
    coarse = dataset_card("cifar100").coarse
    assert len(coarse) == 20
    assert {len(names) for names in coarse.values()} == {5}
    assert len({name for names in coarse.values() for name in names}) == 100


@pytest.mark.parametrize("name", some(MINIATURES, 12))
def test_reader_split_cache_and_a_training_step(tmp_path: Path, name: str) -> None:
    mini = MINIATURES[name]
    raw = opened(mini, mini.written(tmp_path))
    for split, members in raw.splits.items():
        made_of = "train" if split == "val" and decoded(members.image(0))[1] == "train" else split
        for index in range(len(members)):
            assert decoded(members.image(index)) == (members.labels[index], made_of)
    assert len({raw.splits[split].short_name(index) for split in raw.splits for index in range(len(raw.splits[split]))}) == sum(
        map(len, raw.splits.values())
    )
    assert "Also in" not in raw.remarks

    preprocess = Preprocess(random_flip=True)
    data = prepare(raw, preprocess, 16, tmp_path / "cache")
    assert data.train.images.shape == (mini.n_train, 16, 16, 3)
    torch.manual_seed(0)
    head = torch.nn.Linear(3 * 16 * 16, len(raw.class_names))
    before = head.weight.detach().clone()
    batches = training_batches(data.train, 8, preprocess, 16, Normaliser([0.5] * 3, [0.5] * 3), torch.Generator())
    images, labels = next(iter(batches))
    loss = torch.nn.functional.cross_entropy(head(images.flatten(1)), labels)
    loss.backward()
    torch.optim.SGD(head.parameters(), 0.1).step()
    assert torch.isfinite(loss)
    assert not torch.equal(head.weight, before)


@pytest.mark.parametrize(
    ("name", "class_names"),
    [
        ("cub", ("Black footed Albatross", "Laysan Albatross", "Sooty Albatross")),
        ("cub, lists", ("Black footed Albatross", "Laysan Albatross", "Sooty Albatross")),
        ("nabirds", ("Common Eider (Immature/Eclipse male)", "Oak Titmouse", "Dark-eyed Junco (Gray-headed)")),
        ("nabirds, lists", ("Common Eider (Immature/Eclipse male)", "Oak Titmouse", "Dark-eyed Junco (Gray-headed)")),
        ("flowers", ("pink primrose", "hard-leaved pocket orchid", "canterbury bells")),
        ("flowers, lists from 0", ("pink primrose", "hard-leaved pocket orchid", "canterbury bells")),
        ("flowers, lists from 1", ("pink primrose", "hard-leaved pocket orchid", "canterbury bells")),
        ("dogs", ("Chihuahua", "Japanese spaniel", "black-and-tan coonhound")),
        ("dogs, lists", ("Chihuahua", "Japanese spaniel", "black-and-tan coonhound")),
        ("cars", cars.NAMES),
        ("cars, lists", ("1", "2", "3")),
        ("food101", ("apple pie", "baby back ribs", "baklava")),
        ("cifar10", ("airplane", "automobile", "bird")),
        ("cifar100", ("apple", "aquarium_fish", "baby")),
        ("gtsrb", ("0", "1", "2")),
        ("aircraft", aircraft.NAMES),
        ("pets", ("Abyssinian", "american bulldog", "american pit bull terrier")),
    ],
)
def test_class_names(tmp_path: Path, name: str, class_names: tuple[str, ...]) -> None:
    assert opened(MINIATURES[name], MINIATURES[name].written(tmp_path)).class_names == class_names


@pytest.mark.parametrize(
    ("one", "other"),
    [("cub", "cub, unpacked inside"), ("cub, lists", "cub, lists with images/"), ("cifar10", "cifar10, archive's folder")],
)
def test_where_the_archive_was_unpacked_does_not_matter(tmp_path: Path, one: str, other: str) -> None:
    first, second = (opened(MINIATURES[name], MINIATURES[name].written(tmp_path / name)) for name in (one, other))
    assert first.digest == second.digest


def test_lists_beside_the_unpacked_folder_are_found(tmp_path: Path) -> None:
    folder = tmp_path / "cub" / "CUB_200_2011"
    listed(cub.write_json)(folder)
    before = opened(MINIATURES["cub, lists"], tmp_path).digest
    for split in miniatures.GREEN:
        (folder / f"{split}.json").rename(tmp_path / "cub" / f"{split}.json")
    assert opened(MINIATURES["cub, lists"], tmp_path).digest == before


def test_a_class_that_val_lacks_does_not_shift_the_others(tmp_path: Path) -> None:
    """VPT's loader numbers each list by itself; NABirds' val.json lacks classes 627 and 975."""
    made = content(train=4, val=1, test=2)
    made["val"] = [member for member in made["val"] if member[0] != 0]
    (tmp_path / "nabirds").mkdir()
    nabirds.write_json(tmp_path / "nabirds", made)
    raw = open_dataset(MINIATURES["nabirds, lists"].card.model_copy(update={"n_val": 2}), tmp_path)
    assert raw.splits["val"].labels.tolist() == [1, 2]
    assert [decoded(raw.splits["val"].image(index))[0] for index in (0, 1)] == [1, 2]
    assert raw.note == "Not in val: Common Eider (Immature/Eclipse male)."


@pytest.mark.parametrize("name", ["gtsrb", "gtsrb, final"])
def test_no_track_of_gtsrb_is_in_train_and_val(tmp_path: Path, name: str) -> None:
    raw = opened(MINIATURES[name], MINIATURES[name].written(tmp_path))

    def tracks(split: str) -> set[str]:
        members = raw.splits[split]
        return {members.short_name(index).rsplit("_", 1)[0] for index in range(len(members))}

    assert len(tracks("train")) == 16
    assert len(tracks("val")) == 2
    assert not tracks("train") & tracks("val")
    assert raw.note == "Validation is 2 of 18 training tracks (6 images), drawn with a fixed seed. Not in val: 1."


def test_tracks_of_gtsrb_give_the_counts_of_its_card(tmp_path: Path) -> None:
    """Tracks of each class in GTSRB-Training_fixed.zip: 888, of 30 frames."""
    tracks = [5, 50, 50, 32, 44, 42, 10, 32, 32, 33, 45, 30, 47, 48, 18, 14, 10, 25, 27, 5, 8, 8]
    tracks += [9, 12, 6, 34, 14, 6, 12, 6, 10, 18, 6, 16, 10, 27, 9, 5, 46, 7, 8, 6, 6]
    from vpbench.data.sources.gtsrb import _by_track

    members = [
        (f"Training/{label:05d}/{track:05d}_{frame:05d}.ppm", label)
        for label, count in enumerate(tracks)
        for track in range(count)
        for frame in range(30)
    ]
    kept, held, counts = _by_track(tmp_path, members)
    card = dataset_card("gtsrb")
    assert (len(kept), len(held), counts) == (card.n_train, card.n_val, (92, 888))
    assert {label for _, label in held} == set(range(43))


# Damaged copies.


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


def complaint(mini: Mini, root: Path, match: str) -> str:
    """The one line of the error that opening gives."""
    with pytest.raises(DataError, match=match) as caught:
        opened(mini, root)
    assert "\n" not in str(caught.value)
    assert str(root) in str(caught.value)
    return str(caught.value)


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


# Pickles that run something when they are loaded.


class Runs:
    """Its pickle calls a function."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call


HARMFUL: dict[str, Callable[[Path], bytes]] = {
    "os.system": lambda file: pickle.dumps({"data": Runs(os.system, f"touch {file}")}, 2),
    "os.system, protocol 4": lambda file: pickle.dumps({"data": Runs(os.system, f"touch {file}")}, 4),
    "exec": lambda file: pickle.dumps([Runs(exec, f"open({str(file)!r}, 'w')")], 2),
    "eval as an instance": lambda file: f"(S\"open({str(file)!r}, 'w')\"\ni__builtin__\neval\n.".encode(),
    "Path.touch": lambda file: pickle.dumps({"labels": Runs(Path.touch, file)}, 2),
    "getattr": lambda file: pickle.dumps(Runs(getattr, "x", "upper"), 2),
    "below numpy": lambda file: f"cnumpy.core.multiarray\nos.system\n(S'touch {file}'\ntR.".encode(),
    "numpy.load": lambda file: pickle.dumps(Runs(np.memmap, str(file), "uint8", "w+", 0, (4,)), 2),
}


@pytest.mark.parametrize("case", HARMFUL)
def test_a_harmful_pickle_is_refused_and_not_run(tmp_path: Path, case: str) -> None:
    mini = MINIATURES["cifar10"]
    trace = tmp_path / "ran"
    made = HARMFUL[case](trace)
    for name in ("data_batch_1", "test_batch", "batches.meta"):
        mini.written(tmp_path)
        miniatures.put(tmp_path / mini.folder / name, made)
        line = complaint(mini, tmp_path, rf"{name} asks for \S+\.\w+, which CIFAR's files never do")
        assert not trace.exists()
    assert {"exec": "exec", "getattr": "getattr", "numpy.load": "memmap"}.get(case, "") in line


def test_the_harmful_pickles_would_run_otherwise(tmp_path: Path) -> None:
    """So that the test above cannot pass for another reason."""
    for case in ("os.system", "os.system, protocol 4", "exec", "eval as an instance", "Path.touch"):
        trace = tmp_path / case.replace(" ", "")
        pickle.loads(HARMFUL[case](trace))
        assert trace.exists(), case


@pytest.mark.parametrize("protocol", [2, 4])
def test_pickles_of_python_3_are_read_too(tmp_path: Path, protocol: int) -> None:
    mini = MINIATURES["cifar10"]
    expected = opened(mini, mini.written(tmp_path)).digest
    for file in (tmp_path / mini.folder).iterdir():
        file.write_bytes(pickle.dumps(pickle.loads(file.read_bytes(), encoding="latin1"), protocol))
    assert opened(mini, tmp_path).digest == expected


# Memory.

MEASURE = """
import re, sys
from pathlib import Path
from vpbench.data.cache import prepare
from vpbench.data.catalog import dataset_card
from vpbench.data.sources import open_dataset
from vpbench.spec.run_spec import Preprocess

root, count = Path(sys.argv[1]), int(sys.argv[2])
card = dataset_card("food101").model_copy(update={"classes": 2, "n_train": count, "n_val": 0, "n_test": 2})
data = prepare(open_dataset(card, root), Preprocess(), 72, root / "cache")
assert data.train.images.shape == (count, 72, 72, 3)
print(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
"""


def many_images(home: Path, count: int) -> None:
    """Food-101 with ``count`` training images of 72 x 72 pixels, which are links to 50 files."""
    lines = []
    for kind, name in enumerate(("apple_pie", "baklava")):
        folder = home / "images" / name
        for number in range(25):
            miniatures.put(folder / f"{number}.jpg", encoded(picture(kind, "train", number, (72, 72)), "ppm"))
        for number in range(25, 25 + count // 2):
            os.link(folder / f"{number % 25}.jpg", folder / f"{number}.jpg")
            lines.append(f"{name}/{number}")
    miniatures.put(home / "meta" / "train.txt", "\n".join(lines))
    miniatures.put(home / "meta" / "test.txt", "apple_pie/0\nbaklava/0")
    miniatures.put(home / "meta" / "classes.txt", "apple_pie\nbaklava")


@pytest.mark.sweep
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
def test_peak_memory_hardly_grows_with_the_number_of_images(tmp_path: Path) -> None:
    """10,000 images against 1,000: paths, sizes and labels grow (a few MB more, measured), pixels do not.

    Files, decoded images and cached pixels are 140 MB more each. Linux gives getrusage's peak to a child at its start,
    so the peak is taken from /proc.
    """
    peaks = {}
    for count in (1_000, 10_000):
        many_images(tmp_path / str(count) / "food101", count)
        done = subprocess.run(
            [sys.executable, "-c", MEASURE, str(tmp_path / str(count)), str(count)], check=True, capture_output=True, text=True
        )
        peaks[count] = int(done.stdout) / 1000
    print(f"peak with 1,000 images {peaks[1_000]:.0f} MB, with 10,000 {peaks[10_000]:.0f} MB")  # noqa: T201
    assert peaks[10_000] - peaks[1_000] < 50


# Real images.


def rows(shared: Path, name: str, per_class: int, classes: int) -> list[tuple[int, str, bytes, str]]:
    """Some images of a file: label, split, encoded image and path in its origin, ``per_class`` of each split and class."""
    table = pq.read_table(shared / "data" / f"{name}.parquet")
    chosen = []
    seen: dict[tuple[int, str], int] = {}
    for image, label, split in zip(*(table[column].to_pylist() for column in ("image", "label", "split"))):
        seen[label, split] = seen.get((label, split), 0) + 1
        if label < classes and seen[label, split] <= per_class:
            chosen.append((label, split, image["bytes"], image["path"]))
    return chosen


def names_of(shared: Path, name: str) -> list[str]:
    names: list[str] = json.loads(pq.read_schema(shared / "data" / f"{name}.parquet").metadata[b"class_names"])
    return names


def written_content(chosen: list[tuple[int, str, bytes, str]], every: int = 0) -> miniatures.Content:
    """Images by split; of training, each ``every``-th becomes validation."""
    made: miniatures.Content = {"train": [], "val": [], "test": []}
    for place, (label, split, data, _) in enumerate(chosen):
        made["val" if every and split == "train" and place % every == 0 else split].append((label, data))
    return {split: members for split, members in made.items() if members}


def pixels(data: bytes) -> bytes:
    return Image.open(io.BytesIO(data)).convert("RGB").tobytes()


def assert_equal(raw: RawData, made: miniatures.Content) -> None:
    """Every split has the images, labels and order that were written."""
    for split, members in made.items():
        assert raw.splits[split].labels.tolist() == [label for label, _ in members]
        for index, (_, data) in enumerate(members):
            assert raw.splits[split].content(index) == data
            assert raw.splits[split].image(index).tobytes() == pixels(data)


def real_card(name: str, classes: int, made: miniatures.Content, **counts: int) -> DatasetCard:
    found = {f"n_{split}": len(made.get(split, ())) for split in ("train", "val", "test")}
    return dataset_card(name).model_copy(update={"classes": classes, **found, **counts})


@pytest.mark.real
def test_real_birds_in_the_official_layout(shared: Path, tmp_path: Path) -> None:
    names = names_of(shared, "cub100")[:15]
    made = written_content(rows(shared, "cub100", 10, 15))
    assert sum(map(len, made.values())) == 300
    cub.write(tmp_path / "cub", made, names)
    raw = open_dataset(real_card("cub", 15, made), tmp_path)
    assert raw.class_names == tuple(name.replace("_", " ") for name in names)
    assert_equal(raw, made)


@pytest.mark.real
def test_real_textures_in_the_official_layout(shared: Path, tmp_path: Path) -> None:
    names = names_of(shared, "dtd10")
    made = written_content(rows(shared, "dtd10", 15, 10), every=4)
    assert sum(map(len, made.values())) == 300
    dtd.write(tmp_path / "dtd", made, names)
    raw = open_dataset(real_card("dtd", 10, made), tmp_path)
    assert raw.class_names == tuple(names)
    assert_equal(raw, made)


@pytest.mark.real
def test_real_signs_in_the_official_layout(shared: Path, tmp_path: Path) -> None:
    """The test images get numbers, the training images keep their tracks; JPEG becomes PPM, which loses nothing."""
    signs: dict[str, list[gtsrb.Sign]] = {"train": [], "test": []}
    for label, split, data, path in rows(shared, "gtsrb", 25, 6):
        name = path.split("/")[-1] if split == "train" else f"{len(signs['test']):05d}.ppm"
        signs[split].append((label, name, encoded(np.asarray(Image.open(io.BytesIO(data)).convert("RGB")), "ppm")))
        assert pixels(signs[split][-1][2]) == pixels(data)
    assert sum(map(len, signs.values())) > 200
    gtsrb.write(tmp_path / "gtsrb", signs["train"], signs["test"])
    raw = read_dataset(dataset_card("gtsrb"), tmp_path)
    assert_equal(raw, {"test": [(label, data) for label, _, data in signs["test"]]})
    expected = {(f"{label:05d}/{name}", label): pixels(data) for label, name, data in signs["train"]}
    found = {
        ("/".join(members.short_name(index).split("/")[-2:]), int(members.labels[index])): members.image(index).tobytes()
        for members in (raw.splits["train"], raw.splits["val"])
        for index in range(len(members))
    }
    assert found == expected
    tracks = [{members.short_name(index)[:-10] for index in range(len(members))} for members in list(raw.splits.values())[:2]]
    assert tracks[0] and tracks[1] and not tracks[0] & tracks[1]


@pytest.mark.real
@pytest.mark.parametrize(
    ("name", "classes", "training", "testing"),
    [
        ("cub100", 100, 1500, 1000),
        ("flowers12", 12, 697, 240),
        ("pets37", 37, 296, 74),
        ("dtd10", 10, 955, 240),
        ("eurosat1k", 10, 800, 200),
        ("gtsrb", 43, 7120, 1760),
        ("cifar10", 10, 20000, 5000),
    ],
)
def test_real_parquet_files(shared: Path, name: str, classes: int, training: int, testing: int) -> None:
    raw = open_path(shared / "data" / f"{name}.parquet")
    assert len(raw.class_names) == classes
    assert len(raw.splits["train"]) + len(raw.splits["val"]) == training
    assert len(raw.splits["test"]) == testing
    for members in raw.splits.values():
        for index in np.linspace(0, len(members) - 1, 5).astype(int):
            assert members.image(int(index)).mode == "RGB"
