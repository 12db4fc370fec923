"""VTAB-1k's 19 cards, and the reader of the layout in which its images are passed around."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from miniatures.vtab import NAMES, small_card, write_task
from sweeps import some

from vpbench.core.errors import DataError, UsageError
from vpbench.data.batches import Normaliser
from vpbench.data.cache import CachedData, prepare
from vpbench.data.catalog import dataset_card
from vpbench.data.doctor import examine, verify
from vpbench.data.protocols import with_all_for_training
from vpbench.data.sources import open_dataset
from vpbench.models.build import build_model
from vpbench.models.registry import resolve_method
from vpbench.planning.plan import check_runs, resolve
from vpbench.planning.suites import apply_protocol, suite_card
from vpbench.spec.recipe import Recipe
from vpbench.spec.request import Request
from vpbench.spec.run_spec import BackboneSpec, DataSpec, Preprocess, RunSpec
from vpbench.training.fit import Trainer

# Classes and test images, as in Table 17 of the iVPT paper.
PUBLISHED = {
    "natural": {
        "cifar100": (100, 10000),
        "caltech101": (102, 6084),
        "dtd": (47, 1880),
        "flowers": (102, 6149),
        "pets": (37, 3669),
        "svhn": (10, 26032),
        "sun397": (397, 21750),
    },
    "specialized": {
        "camelyon": (2, 32768),
        "eurosat": (10, 5400),
        "resisc45": (45, 6300),
        "retinopathy": (5, 42670),
    },
    "structured": {
        "clevr-count": (8, 15000),
        "clevr-distance": (6, 15000),
        "dmlab": (6, 22735),
        "kitti": (4, 711),
        "dsprites-location": (16, 73728),
        "dsprites-orientation": (16, 73728),
        "smallnorb-azimuth": (18, 12150),
        "smallnorb-elevation": (9, 12150),
    },
}


def test_cards_say_what_was_published() -> None:
    found: dict[str, dict[str, tuple[int, int]]] = {"natural": {}, "specialized": {}, "structured": {}}
    for name in NAMES:
        card = dataset_card(name)
        found[card.group][name.removeprefix("vtab.")] = (card.classes, card.n_test)
        assert (card.source, card.n_train, card.n_val) == ("vtab", 800, 200)
        assert card.folders[0] == name
        assert card.folders[1].startswith("vtab-1k/")
        assert card.revision.startswith("tfds ")
        assert f"vpbench data convert {name} --from tfds" in card.how_to_get
    assert found == PUBLISHED


def one_step(data: CachedData) -> float:
    """The loss of one training step of a linear classifier on a small random ViT."""
    half = (0.5, 0.5, 0.5)
    backbone = BackboneSpec(name="vit_tiny_patch16_224", weights="random", image_size=16, patch_size=8, mean=half, std=half)
    spec = RunSpec(
        method=resolve_method("linear"), backbone=backbone, preprocess=Preprocess(random_flip=True), seed=0,
        recipe=Recipe(optimizer="adamw", lr=0.01, epochs=1, batch_size=len(data.train)),
        data=DataSpec(suite="custom", dataset="miniature", digest="0"),
    )  # fmt: skip
    model = build_model(spec.method, spec.backbone, len(data.class_names))
    trainer = Trainer(model, data, spec, Normaliser(half, half), torch.device("cpu"))
    before = model.snapshot()["head.weight"].clone()
    trainer.fit()
    assert not torch.equal(model.snapshot()["head.weight"], before)
    assert len(trainer.first_losses) == 1
    return trainer.first_losses[0]


@pytest.mark.parametrize("name", some(NAMES, 5))
@pytest.mark.parametrize("place", [0, 1], ids=["own folder", "vtab-1k"])
def test_every_task_from_files_to_a_training_step(tmp_path: Path, name: str, place: int) -> None:
    card = small_card(name)
    write_task(card, tmp_path / card.folders[place], copies=place == 1)
    raw = open_dataset(card, tmp_path)
    assert len(raw.class_names) == card.classes
    assert [len(split) for split in raw.splits.values()] == [8, 4, 6]
    # Class ids are those of the lists, also where training lacks a class.
    assert raw.splits["train"].labels.tolist() == [number % card.classes for number in range(8)]
    assert raw.splits["test"].labels.tolist() == [(card.classes - 1 - number) % card.classes for number in range(6)]
    if place == 0:
        both = with_all_for_training(raw)
        assert both.splits["train"].labels.tolist() == raw.splits["train"].labels.tolist() + raw.splits["val"].labels.tolist()
        data = prepare(both, Preprocess(), 16, tmp_path / "cache")
        assert data.train.images.shape == (12, 16, 16, 3)
        assert len(data.val) == 0
        assert np.isfinite(one_step(data))


def test_tasks_on_the_same_images_share_their_cache(tmp_path: Path) -> None:
    count, distance = small_card("vtab.clevr-count"), small_card("vtab.clevr-distance")
    folder = write_task(distance, tmp_path / "vtab.clevr-distance")
    shutil.copytree(folder, tmp_path / "vtab.clevr-count")
    prepare(open_dataset(distance, tmp_path), Preprocess(), 16, tmp_path / "cache")
    raw = open_dataset(count, tmp_path)
    assert raw.class_names[0] == "3"
    prepare(raw, Preprocess(), 16, tmp_path / "cache", lambda *_: pytest.fail("was built again"))


def test_classes_without_training_images_are_noted(tmp_path: Path) -> None:
    card = small_card("vtab.kitti", n_train=2, n_val=1)
    write_task(card, tmp_path / "vtab.kitti")
    assert open_dataset(card, tmp_path).note == "Not among the 3 training images: class 'over 20 m' (and 1 more)."


def test_paths_may_contain_blanks(tmp_path: Path) -> None:
    card = small_card("vtab.kitti")
    folder = write_task(card, tmp_path / "vtab.kitti")
    (folder / "images" / "test").rename(folder / "images" / "a test")
    edit(folder, "test.txt", "images/test/", "images/a test/")
    assert open_dataset(card, tmp_path).splits["test"].short_name(0) == "images/a test/000000.jpg"


def test_the_list_of_all_training_images_may_be_missing(tmp_path: Path) -> None:
    card = small_card("vtab.kitti")
    folder = write_task(card, tmp_path / "vtab.kitti")
    digest = open_dataset(card, tmp_path).digest
    (folder / "train800val200.txt").unlink()
    assert open_dataset(card, tmp_path).digest == digest


def joined(folder: Path) -> Path:
    """The same task without the lists that tell training from validation images."""
    (folder / "train800.txt").unlink()
    (folder / "val200.txt").unlink()
    return folder


def test_the_list_of_all_training_images_suffices_without_a_search(tmp_path: Path) -> None:
    card = small_card("vtab.kitti")
    write_task(card, tmp_path / "whole" / "vtab.kitti")
    whole = with_all_for_training(open_dataset(card, tmp_path / "whole"))
    folder = joined(write_task(card, tmp_path / "vtab.kitti"))
    raw = open_dataset(card, tmp_path)
    assert [len(split) for split in raw.splits.values()] == [12, 0, 6]
    assert raw.note == f"{folder} lacks train800.txt and val200.txt, without which no search is possible."
    assert with_all_for_training(raw).digest == whole.digest
    assert apply_protocol(raw, suite_card("vtab1k")).digest == whole.digest
    assert examine("vtab.kitti", card, tmp_path).ready
    assert verify("vtab.kitti", card, tmp_path).problems == ()
    with pytest.raises(DataError, match=r"FGVC trains without the validation images\. .*lacks train800\.txt and val200\.txt"):
        apply_protocol(raw, suite_card("fgvc"))


def test_search_says_which_lists_it_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    joined(write_task(small_card("vtab.kitti"), tmp_path / "vtab.kitti"))
    monkeypatch.setattr("vpbench.planning.plan.dataset_card", small_card)
    monkeypatch.setattr("vpbench.planning.requested_data.dataset_card", small_card)
    request = Request(
        methods=["linear"],
        suite="vtab1k",
        datasets=["vtab.kitti"],
        data_root=str(tmp_path),
        backbone="vit-nano",
        precision="fp32",
    )
    resolved = resolve(request)
    runs = resolved.runs("linear", "vtab.kitti", [42])
    check_runs(runs, resolved.data)
    searched = resolved.at("search")
    with pytest.raises(UsageError, match=r"a search chooses on nothing else: .*lacks train800\.txt and val200\.txt"):
        check_runs(searched.runs("linear", "vtab.kitti", [42]), searched.data)


def test_one_of_the_two_lists_is_not_enough(tmp_path: Path) -> None:
    folder = write_task(small_card("vtab.kitti"), tmp_path / "vtab.kitti")
    (folder / "val200.txt").unlink()
    with pytest.raises(DataError, match=r"val200\.txt is missing"):
        open_dataset(small_card("vtab.kitti"), tmp_path)


@pytest.mark.parametrize("file", ["train800.txt", "val200.txt", "test.txt", "train800val200.txt"])
def test_byte_order_mark(tmp_path: Path, file: str) -> None:
    card = small_card("vtab.kitti")
    folder = write_task(card, tmp_path / "vtab.kitti")
    digest = open_dataset(card, tmp_path).digest
    (folder / file).write_bytes(b"\xef\xbb\xbf" + (folder / file).read_bytes())
    raw = open_dataset(card, tmp_path)
    assert (raw.digest, raw.note) == (digest, "")


def test_second_copies_that_are_other_files_are_noted(tmp_path: Path) -> None:
    card = small_card("vtab.kitti")
    folder = write_task(card, tmp_path / "vtab.kitti", copies=True)
    assert open_dataset(card, tmp_path).note == ""
    (folder / "images/train800val200/000003.jpg").write_bytes(b"other")
    assert (
        open_dataset(card, tmp_path).note
        == "train800val200.txt names other files than train800.txt and val200.txt; it is not used."
    )


def test_what_the_converter_says_is_told(tmp_path: Path) -> None:
    card = small_card("vtab.kitti")
    folder = write_task(card, tmp_path / "vtab.kitti")
    (folder / "provenance.json").write_text('{"note": "Own split."}')
    assert open_dataset(card, tmp_path).note == "Own split."
    (folder / "provenance.json").write_text("{")
    with pytest.raises(DataError, match=r"provenance\.json is not what a converter writes"):
        open_dataset(card, tmp_path)


def edit(folder: Path, file: str, old: str, new: str) -> None:
    content = (folder / file).read_text()
    assert old in content
    (folder / file).write_text(content.replace(old, new, 1) if "\n" in old or " " in old else content.replace(old, new))


BAD = {
    "no list": (("val200.txt", None, ""), r"val200\.txt is missing"),
    "empty list": (("val200.txt", "", ""), r"val200\.txt names no image"),
    "no label": (
        ("test.txt", "images/test/000001.jpg 2", "images/test/000001.jpg"),
        r"test\.txt: line 2 is 'images/test/000001\.jpg'",
    ),
    "label of text": (
        ("test.txt", "images/test/000001.jpg 2", "images/test/000001.jpg two"),
        r"line 2 .* a blank and a class number",
    ),
    "label too large": (
        ("train800.txt", "000002.jpg 2", "000002.jpg 4"),
        r"000002\.jpg of the train list has label 4; it must be 0 to 3",
    ),
    "label below 0": (("train800.txt", "000002.jpg 2", "000002.jpg -1"), "has label -1"),
    "overlap": (
        ("test.txt", "images/test/000000.jpg 3", "images/train800/000000.jpg 0"),
        "is in the train list and in the test list",
    ),
    "twice": (
        ("test.txt", "images/test/000000.jpg 3", "images/test/000001.jpg 2"),
        r"test\.txt: images/test/000001\.jpg is listed twice",
    ),
    "other union": (
        ("train800val200.txt", "images/train800/000007.jpg 3\n", ""),
        r"train800val200\.txt is not train800\.txt and val200\.txt",
    ),
    "union with another label": (
        ("train800val200.txt", "000007.jpg 3", "000007.jpg 1"),
        r"differ in 'images/train800/000007\.jpg 1'",
    ),
    "missing image": (("test.txt", "test/000005", "test/000099"), r"images/test/000099\.jpg is missing"),
    "fewer images": (("test.txt", "images/test/000005.jpg 2\n", ""), "KITTI distance .* must have n_test = 6, here it is 5"),
    "outside": (
        ("test.txt", "images/test/000000.jpg 3", "../secret.jpg 3"),
        r"line 1 names \.\./secret\.jpg, which is not below",
    ),
    "absolute": (("test.txt", "images/test/000000.jpg 3", "/etc/secret.jpg 3"), r"names /etc/secret\.jpg, which is not below"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_lists(tmp_path: Path, case: str) -> None:
    card = small_card("vtab.kitti")
    folder = write_task(card, tmp_path / "vtab.kitti")
    (file, old, new), message = BAD[case]
    if old is None:
        (folder / file).unlink()
    elif old == "":
        (folder / file).write_text("\n\n")
    else:
        edit(folder, file, old, new)
    with pytest.raises(DataError, match=message) as caught:
        open_dataset(card, tmp_path)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_second_copies_of_other_classes(tmp_path: Path) -> None:
    card = small_card("vtab.kitti")
    folder = write_task(card, tmp_path / "vtab.kitti", copies=True)
    edit(folder, "train800val200.txt", "000003.jpg 3", "000003.jpg 0")
    with pytest.raises(DataError, match=r"it has 4 images of class 0, those have 3"):
        open_dataset(card, tmp_path)


def test_list_that_is_no_text(tmp_path: Path) -> None:
    card = small_card("vtab.kitti")
    folder = write_task(card, tmp_path / "vtab.kitti")
    (folder / "test.txt").write_bytes(b"\xff\xd8\xff\xe0")
    with pytest.raises(DataError, match=r"test\.txt is not a text file"):
        open_dataset(card, tmp_path)


def test_full_sized_card_refuses_a_miniature(tmp_path: Path) -> None:
    write_task(small_card("vtab.svhn"), tmp_path / "vtab.svhn")
    with pytest.raises(DataError, match=r"must have n_train = 800, here it is 8; the copy is incomplete"):
        open_dataset(dataset_card("vtab.svhn"), tmp_path)
