"""ImageNet-1k and the sets that test its models elsewhere: miniatures of each layout, damaged copies, counts, class ids."""

from __future__ import annotations

import pkgutil
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from miniatures import content, decoded, imagenet, put

from vpbench.core.errors import DataError, WrongCountsError
from vpbench.data.cache import prepare
from vpbench.data.catalog import DatasetCard, dataset_card
from vpbench.data.raw import RawData
from vpbench.data.sources import open_dataset
from vpbench.data.sources._wordnet import wordnet_ids
from vpbench.planning import check_names, requested_data
from vpbench.planning.plan import Request, resolve
from vpbench.planning.suites import suite_card
from vpbench.spec.run_spec import Preprocess

SHIFTS = ("imagenet-v2", "imagenet-sketch", "imagenet-a", "imagenet-r")
LAYOUTS: dict[str, tuple[str, str, Callable[[Path], None]]] = {
    "torchvision's": ("imagenet", "imagenet", lambda folder: imagenet.write(folder, content(train=4, test=2))),
    "CoOp's": ("imagenet", "imagenet", lambda folder: imagenet.write(folder, content(train=4, test=2), "images")),
    "Kaggle's": ("imagenet", "imagenet", lambda folder: imagenet.write_kaggle(folder, content(train=4, test=2))),
    "v2": (
        "imagenet-v2", "imagenetv2",
        lambda folder: imagenet.write_shift(
            folder, content(test=2), "imagenetv2-matched-frequency-format-val", numbered=True, suffix=".jpeg"
        ),
    ),
    "a": ("imagenet-a", "imagenet-a", lambda folder: imagenet.write_shift(folder, content(test=2))),
    "a, CoOp's": (
        "imagenet-a", "imagenet-adversarial", lambda folder: imagenet.write_shift(folder, content(test=2), "imagenet-a"),
    ),
    "r": ("imagenet-r", "imagenet-r", lambda folder: imagenet.write_shift(folder, content(test=2), "imagenet-r")),
    "sketch": (
        "imagenet-sketch", "imagenet-sketch",
        lambda folder: imagenet.write_shift(folder, content(test=2), "sketch", suffix=".JPEG"),
    ),
}  # fmt: skip


def small(name: str, **counts: int) -> DatasetCard:
    """A card that counts as the miniatures do."""
    own = {"n_train": 9, "n_val": 3} if name == "imagenet" else {}
    return dataset_card(name).model_copy(update={"classes": 3, "n_test": 6, **own, **counts})


def written(layout: str, root: Path) -> tuple[DatasetCard, Path]:
    name, folder, write = LAYOUTS[layout]
    (root / folder).mkdir(parents=True)
    write(root / folder)
    return small(name), root / folder


@pytest.mark.parametrize("layout", LAYOUTS)
def test_reader_split_and_cache(layout: str, tmp_path: Path) -> None:
    card, _ = written(layout, tmp_path)
    raw = open_dataset(card, tmp_path)
    assert raw.class_names == imagenet.IDS
    for split, members in raw.splits.items():
        for index in range(len(members)):
            made_of = "train" if split == "val" else split
            assert decoded(members.image(index)) == (members.labels[index], made_of)
    data = prepare(raw, Preprocess(), 16, tmp_path / "cache")
    assert data.test.images.shape == (6, 16, 16, 3)
    assert len(data.train) == card.n_train and len(data.val) == card.n_val


def test_layouts_are_one_data_set(tmp_path: Path) -> None:
    """torchvision's and CoOp's; Kaggle's archive has its test images under other paths."""
    digests = []
    for layout in ("torchvision's", "CoOp's"):
        card, _ = written(layout, tmp_path / layout)
        digests.append(open_dataset(card, tmp_path / layout).digest)
    assert digests[0] == digests[1]


def test_cards_have_the_published_counts() -> None:
    known = {name: (card.classes, card.n_test) for name in ("imagenet", *SHIFTS) for card in [dataset_card(name)]}
    assert known == {
        "imagenet": (1000, 50_000), "imagenet-v2": (1000, 10_000), "imagenet-sketch": (1000, 50_889), "imagenet-a": (200, 7_500),
        "imagenet-r": (200, 30_000),
    }  # fmt: skip
    assert dataset_card("imagenet").n_train + dataset_card("imagenet").n_val == 1_281_167
    assert all((dataset_card(name).n_train, dataset_card(name).n_val) == (0, 0) for name in SHIFTS)
    assert set(suite_card("imagenet-16shot").test_on) == set(SHIFTS)


def test_subsets_are_classes_of_imagenet() -> None:
    """timm's lists of the 200 classes of ImageNet-A and -R; our readers take whatever folders are there, and count them."""
    assert len(wordnet_ids()) == len(set(wordnet_ids())) == 1000 and list(wordnet_ids()) == sorted(wordnet_ids())
    for name in ("imagenet_a_synsets.txt", "imagenet_r_synsets.txt"):
        ids = (pkgutil.get_data("timm.data", f"_info/{name}") or b"").decode().split()
        assert len(ids) == 200 and set(ids) < set(wordnet_ids())


def remove(place: str) -> Callable[[Path], None]:
    return lambda folder: shutil.rmtree(folder / place)


def add(place: str, data: bytes | str = b"x") -> Callable[[Path], None]:
    return lambda folder: put(folder / place, data)


def empty(place: str) -> Callable[[Path], None]:
    return lambda folder: [file.unlink() for file in (folder / place).iterdir()] and None


def rewrite(file: str, old: str, new: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / file).write_text((folder / file).read_text().replace(old, new))

    return change


BAD: dict[str, tuple[str, Callable[[Path], None], str]] = {
    "no train": ("torchvision's", remove("train"), r"imagenet/train is missing; the copy of the data set is incomplete"),
    "no val": ("torchvision's", remove("val"), r"imagenet/val is missing"),
    "empty class": ("torchvision's", empty("train/n01443537"), r"train/n01443537 has no images"),
    "class of the large ImageNet": ("torchvision's", add("train/n00004475/a.JPEG"), "n00004475 is no class of ImageNet-1k"),
    "class of test alone": ("torchvision's", add("val/n01491361/a.JPEG"), "class n01491361 is none of the training images'"),
    "flat val": ("Kaggle's", lambda folder: (folder / "LOC_val_solution.csv").unlink(), "has no folders called by WordNet ids"),
    "strange class in the list": (
        "Kaggle's", rewrite("LOC_val_solution.csv", "n01484850 111", "n0148485 111"), r"has class 'n0148485', of which training",
    ),
    "image of the list missing": (
        "Kaggle's", lambda folder: next(folder.rglob("ILSVRC2012_val_00000001.JPEG")).unlink(), r"val_00000001\.JPEG is missing",
    ),
    "v2 by names": (
        "v2", add("imagenetv2-matched-frequency-format-val/n01440764/a.jpeg"), r"must be called by class ids, 0 to 999",
    ),
    "v2 beyond 999": ("v2", add("imagenetv2-matched-frequency-format-val/1000/a.jpeg"), "must be called by class ids, 0 to 999"),
    "v2 empty class": ("v2", empty("imagenetv2-matched-frequency-format-val/1"), "format-val/1 has no images"),
    "a without classes": (
        "a", lambda folder: [remove(name)(folder) for name in imagenet.IDS] and None, "has no folders called by WordNet ids",
    ),
    "r with another class": ("r", add("imagenet-r/n00004475/art_0.jpg"), "n00004475 is no class of ImageNet-1k"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_damaged_copies_are_refused(case: str, tmp_path: Path) -> None:
    layout, damage, message = BAD[case]
    card, folder = written(layout, tmp_path)
    damage(folder)
    with pytest.raises(DataError, match=message) as caught:
        open_dataset(card, tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("layout", "place", "message"),
    [
        ("torchvision's", "train/n01440764/n01440764_99.JPEG", "n_train = 9, here it is 10"),
        ("torchvision's", "val/n01440764/ILSVRC2012_val_00000099.JPEG", "n_test = 6, here it is 7"),
        ("r", "imagenet-r/n01491361/art_0.jpg", "classes = 3, here it is 4"),
        ("sketch", "sketch/n01440764/sketch_99.JPEG", "n_test = 6, here it is 7"),
    ],
)
def test_counts_are_enforced(layout: str, place: str, message: str, tmp_path: Path) -> None:
    card, folder = written(layout, tmp_path)
    put(folder / place, content(test=1)["test"][0][1])
    with pytest.raises(WrongCountsError, match=message) as caught:
        open_dataset(card, tmp_path)
    assert "imagenet-r" in str(caught.value) or card.title in str(caught.value)


def test_a_set_of_test_images_cannot_be_trained_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    card, _ = written("a", tmp_path)
    monkeypatch.setattr(requested_data, "dataset_card", lambda name: card)
    suite: Any = suite_card("fgvc").model_copy(update={"datasets": ("imagenet-a",)})
    monkeypatch.setattr(check_names, "suite_card", lambda name: suite)
    request = Request(methods=["linear"], suite="fgvc", data_root=str(tmp_path), weights="random")
    with pytest.raises(
        DataError, match="imagenet-a: it has test images alone, to test models on that were trained on others"
    ) as caught:
        resolve(request)
    assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match="it has test images alone"):
        resolve(request.model_copy(update={"data_root": str(tmp_path / "nowhere")}), without_data=True)


def test_a_split_of_a_raw_data_set_may_be_empty(tmp_path: Path) -> None:
    card, _ = written("a", tmp_path)
    raw: RawData = open_dataset(card, tmp_path)
    assert len(raw.splits["train"]) == 0 and raw.remarks == ""
