"""VTAB's label and split rules, and converters that write its layout from TFDS and from original files."""

from __future__ import annotations

import importlib.util
import io
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from miniatures.vtab import NAMES, small_card, write_dsprites, write_norb
from PIL import Image

from vpbench.core.errors import DataError, UsageError
from vpbench.data.catalog import dataset_card
from vpbench.data.conversion import convert, convertible, labels
from vpbench.data.conversion.draws import drawn
from vpbench.data.conversion.dsprites import FILE, convert_dsprites, stream_rows
from vpbench.data.conversion.norb import convert_norb
from vpbench.data.conversion.tfds import RULES, convert_tfds
from vpbench.data.conversion.vtab_layout import SCRATCH, Example, png, write_layout
from vpbench.data.sources import open_dataset

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


# The layout


def examples(counts: tuple[int, int, int] = (8, 4, 6), label: int = 1) -> Iterator[Example]:
    for split, count in zip(("train", "val", "test"), counts):
        for number in range(count):
            content = png(np.full((9, 7), 20 * number, np.uint8))
            yield Example(split, content, ".png", label if number else 0, f"image {number} of a test")


def test_layout_is_read_back(tmp_path: Path) -> None:
    card, seen = small_card("vtab.dmlab"), []
    folder = write_layout(
        tmp_path / "vtab.dmlab", examples(), card, {"source": "a test"}, on_progress=lambda *step: seen.append(step)
    )
    assert seen == [(number, 18) for number in range(1, 19)]
    raw = open_dataset(card, tmp_path)
    assert raw.splits["val"].labels.tolist() == [0, 1, 1, 1]
    assert raw.splits["test"].image(2).getpixel((0, 0)) == (40, 40, 40)
    assert raw.splits["test"].short_name(2) == "images/test/000002.png"
    both = (folder / "train800val200.txt").read_text().splitlines()
    assert (len(both), both[8]) == (12, "images/val200/000000.png 0")
    assert json.loads((folder / "provenance.json").read_text())["source"] == "a test"
    assert [entry.name for entry in tmp_path.iterdir()] == ["vtab.dmlab"]


def test_nothing_half_written_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    card, target = small_card("vtab.dmlab"), tmp_path / "root" / "vtab.dmlab"

    def interrupt(done: int, _: int) -> None:
        if done == 10:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_layout(target, examples(), card, {}, on_progress=interrupt)
    with pytest.raises(DataError, match=r"image 1 of a test has label 6; DMLab .* has classes 0 to 5"):
        write_layout(target, examples(label=6), card, {})
    with pytest.raises(DataError, match="has label -1"):
        write_layout(target, examples(label=-1), card, {})
    with pytest.raises(DataError, match=r"the source gives 5 test images, DMLab .* has 6"):
        write_layout(target, examples((8, 4, 5)), card, {})

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "sync", full)
        with pytest.raises(DataError, match=r"cannot write .*vtab\.dmlab \(the disk is full\)"):
            write_layout(target, examples(), card, {})
    assert list(target.parent.iterdir()) == []


def test_existing_folder_is_kept_unless_forced(tmp_path: Path) -> None:
    card, target = small_card("vtab.dmlab"), tmp_path / "vtab.dmlab"
    target.mkdir()
    (target / "mine.txt").touch()
    with pytest.raises(DataError, match=r"vtab\.dmlab exists already; remove it, or .* --force"):
        write_layout(target, examples(), card, {})
    with pytest.raises(DataError, match="the source gives 0 train images"):
        write_layout(target, examples((0, 4, 6)), card, {}, force=True)
    assert [file.name for file in target.iterdir()] == ["mine.txt"]
    write_layout(target, examples(), card, {}, force=True)
    assert not (target / "mine.txt").exists()
    assert len(open_dataset(card, tmp_path).splits["test"]) == 6
    assert not list(tmp_path.glob(f"{SCRATCH}*"))


# Original files


@pytest.mark.parametrize(("name", "column", "steps"), [("vtab.dsprites-location", 4, 32), ("vtab.dsprites-orientation", 3, 40)])
def test_dsprites_from_its_npz(tmp_path: Path, name: str, column: int, steps: int) -> None:
    pixels, classes = write_dsprites(tmp_path / "files", 60)
    card = small_card(name)
    convert_dsprites(name, card, tmp_path / name, tmp_path / "files", images=60)
    raw = open_dataset(card, tmp_path)
    assert raw.note.endswith(
        "Own seeded split of VTAB-1k's sizes, not TFDS's order: not comparable to published VTAB-1k numbers to the last digit."
    )
    for split, rows in drawn(60, {"train": 8, "val": 4, "test": 6}).items():
        assert raw.splits[split].labels.tolist() == [int(classes[row, column] // (steps / 16)) for row in rows]
        for number, row in enumerate(rows):
            assert np.array_equal(np.asarray(raw.splits[split].image(number))[..., 1], pixels[row] * 255)


def test_both_dsprites_tasks_have_the_same_images(tmp_path: Path) -> None:
    write_dsprites(tmp_path / "files", 60)
    opened = []
    for name in ("vtab.dsprites-location", "vtab.dsprites-orientation"):
        convert_dsprites(name, small_card(name), tmp_path / name, tmp_path / "files" / FILE, images=60)
        opened.append(open_dataset(small_card(name), tmp_path))
    assert opened[0].splits["test"].digest == opened[1].splits["test"].digest
    assert opened[0].digest != opened[1].digest


def test_rows_of_an_npz_are_read_one_by_one(tmp_path: Path) -> None:
    """50 MB of zeros take 50 kB on the disk, and little memory when their rows come one after the other."""
    import tracemalloc

    np.savez_compressed(tmp_path / "zeros.npz", imgs=np.zeros((12_000, 64, 64), np.uint8))
    tracemalloc.start()
    rows = sum(1 for _ in stream_rows(tmp_path / "zeros.npz", "imgs", (12_000, 64, 64)))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert rows == 12_000
    assert peak < 2_000_000


@pytest.mark.parametrize("damage", ["half", "text", "no images", "no latents", "other shape", "fewer rows", "missing"])
def test_broken_npz(tmp_path: Path, damage: str) -> None:
    write_dsprites(tmp_path / "files", 60)
    file, name = tmp_path / "files" / FILE, "vtab.dsprites-location"
    arrays = {"imgs": np.zeros((60, 64, 64), np.uint8), "latents_classes": np.zeros((60, 6), np.int64)}
    wanted = "is cut off or no .npz file"
    if damage == "half":
        file.write_bytes(file.read_bytes()[:9000])
    elif damage == "text":
        file.write_text("<html>not found</html>")
    elif damage == "missing":
        file.unlink()
        wanted = "is missing; get it from github"
    else:
        if damage == "no images":
            del arrays["imgs"]
            wanted = "has no array"
        elif damage == "no latents":
            del arrays["latents_classes"]
            wanted = "has no array"
        elif damage == "other shape":
            arrays["imgs"] = np.zeros((60, 32, 32), np.uint8)
            wanted = "it must be uint8 of shape"
        else:
            arrays = {key: value[:50] for key, value in arrays.items()}
            wanted = r"latents_classes has the shape \(50, 6\), it must be \(60, 6\)"
        np.savez_compressed(file, **arrays)
    with pytest.raises(DataError, match=wanted) as caught:
        convert_dsprites(name, small_card(name), tmp_path / "out" / name, tmp_path / "files", images=60)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out" / name).exists()


@pytest.mark.parametrize("packed", [False, True], ids=["mat", "gz"])
def test_norb_from_its_matrices(tmp_path: Path, packed: bool) -> None:
    parts = write_norb(tmp_path / "files", 30, 16, packed)
    for name, values in (
        ("vtab.smallnorb-azimuth", lambda info: info[2] // 2),
        ("vtab.smallnorb-elevation", lambda info: info[1]),
    ):
        card = small_card(name)
        convert_norb(name, card, tmp_path / name, tmp_path / "files", images=30, side=16)
        raw = open_dataset(card, tmp_path)
        assert "Own seeded split" in raw.note
        rows = {**drawn(30, {"train": 8}), **drawn(30, {"val": 4, "test": 6})}
        for split, part in (("train", "training"), ("val", "testing"), ("test", "testing")):
            pairs, info = parts[part]
            assert raw.splits[split].labels.tolist() == [values(info[row]) for row in rows[split]]
            for number, row in enumerate(rows[split]):
                assert np.array_equal(np.asarray(raw.splits[split].image(number))[..., 0], pairs[row, 0])


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-10])


BAD_NORB: dict[str, tuple[str, Callable[[Path], Any], str]] = {
    "no info": ("testing-info", Path.unlink, r"testing-info\.mat \(or .*\.mat\.gz\) is missing"),
    "cut": ("testing-dat", cut, "is cut off or damaged"),
    "cut info": ("training-info", cut, "is cut off or damaged"),
    "empty": ("training-dat", lambda file: file.write_bytes(b""), "is cut off or damaged"),
    "text": ("training-dat", lambda file: file.write_text("<html>not found</html>"), "is no NORB matrix"),
    "another": (
        "training-dat",
        lambda file: file.write_bytes((file.parent / file.name.replace("dat", "cat")).read_bytes()),
        "is int32 of shape",
    ),
}


@pytest.mark.parametrize("case", BAD_NORB)
def test_broken_norb(tmp_path: Path, case: str) -> None:
    write_norb(tmp_path / "files", 30, 16)
    kind, damage, message = BAD_NORB[case]
    damage(next((tmp_path / "files").glob(f"*{kind}.mat")))
    name = "vtab.smallnorb-azimuth"
    with pytest.raises(DataError, match=message) as caught:
        convert_norb(name, small_card(name), tmp_path / "out" / name, tmp_path / "files", images=30, side=16)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists() or list((tmp_path / "out").iterdir()) == []


# What the command line calls


def test_what_can_be_converted() -> None:
    assert sorted(convertible("tfds")) == sorted(NAMES)
    assert sorted(convertible("original")) == sorted(
        name for name in NAMES if "dsprites" in name or "smallnorb" in name or "resisc45" in name
    )


def test_convert_refuses(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"Did you mean 'vtab.svhn'"):
        convert("vtab.svnh", "tfds", None, tmp_path)
    with pytest.raises(UsageError, match=r"digits cannot be converted from tfds. From tfds: vtab"):
        convert("digits", "tfds", None, tmp_path)
    with pytest.raises(UsageError, match=r"vtab.svhn cannot be converted from original; it can be from tfds"):
        convert("vtab.svhn", "original", tmp_path, tmp_path)
    with pytest.raises(UsageError, match="'web' is no source"):
        convert("vtab.svhn", "web", None, tmp_path)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"give the original files of dSprites location.*: --path"):
        convert("vtab.dsprites-location", "original", None, tmp_path)
    with pytest.raises(DataError, match="nowhere does not exist"):
        convert("vtab.dsprites-location", "original", tmp_path / "nowhere", tmp_path)
    with pytest.raises(DataError, match=r"vtab-1k/svhn holds SVHN .* already"):
        (tmp_path / "vtab-1k/svhn").mkdir(parents=True)
        convert("vtab.svhn", "tfds", None, tmp_path)
    with pytest.raises(DataError, match="nowhere is no folder"):
        convert("vtab.dtd", "tfds", tmp_path / "nowhere", tmp_path)
    with pytest.raises(DataError, match=r"smallnorb-.*-training-dat\.mat .* is missing"):
        convert("vtab.smallnorb-azimuth", "original", tmp_path, tmp_path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["vtab-1k"]


@pytest.mark.skipif(importlib.util.find_spec("tensorflow_datasets") is not None, reason="TensorFlow Datasets is installed")
def test_without_tfds_it_says_what_to_install(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"pip install 'vpbench\[tfds\]'"):
        convert("vtab.svhn", "tfds", None, tmp_path)


# TFDS

COUNT = 2_100  # enough for 800 images before the last tenth, and 200 in it


@pytest.fixture(scope="module")
def tfds() -> Any:
    # Under another name, TensorFlow says at import which processor features it could use.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    return pytest.importorskip("tensorflow_datasets", reason="NOT RUN: converting from TFDS, install vpbench[tfds]")


def store(
    tfds: Any, root: Path, name: str, version: str, splits: dict[str, Callable[[int], dict[str, Any]]], counts: dict[str, int]
) -> Any:
    """A small data set on the disk as TFDS prepares its own: same name, version, features and splits."""
    features = tfds.builder_cls(name)(data_dir=root, version=version).info.features
    datasets = {split: [(number, make(number)) for number in range(counts[split])] for split, make in splits.items()}
    return tfds.dataset_builders.store_as_tfds_dataset(
        name=name, version=version, features=features, split_datasets=datasets, data_dir=root, disable_shuffling=True
    )


def noise(seed: int, shape: tuple[int, ...], top: int = 256) -> Any:
    return np.random.default_rng(seed).integers(0, top, shape, dtype=np.uint8)


def test_svhn_from_tfds(tfds: Any, tmp_path: Path) -> None:
    def train(number: int) -> dict[str, Any]:
        return {"image": noise(number, (32, 32, 3)), "label": number % 10, "id": f"{number}"}

    def test(number: int) -> dict[str, Any]:
        return {"image": noise(number + 9999, (32, 32, 3)), "label": (number + 3) % 10, "id": f"{number}"}

    store(
        tfds,
        tmp_path / "tfds",
        "svhn_cropped",
        "3.1.0",
        {"train": train, "test": test, "extra": test},
        {"train": COUNT, "test": 30, "extra": 2},
    )
    card = dataset_card("vtab.svhn").model_copy(update={"n_test": 30})
    folder = convert_tfds("vtab.svhn", card, tmp_path / "root" / "vtab.svhn", tmp_path / "tfds")
    raw = open_dataset(card, tmp_path / "root")
    assert raw.note == "From TFDS svhn_cropped 3.1.0; VPT used 3.0.0."
    assert raw.splits["train"].labels.tolist() == [number % 10 for number in range(800)]
    assert raw.splits["val"].labels.tolist() == [number % 10 for number in range(1890, 2090)]
    assert raw.splits["test"].labels.tolist() == [(number + 3) % 10 for number in range(30)]
    assert np.array_equal(np.asarray(raw.splits["val"].image(5)), train(1895)["image"])
    assert np.array_equal(np.asarray(raw.splits["test"].image(29)), test(29)["image"])
    provenance = json.loads((folder / "provenance.json").read_text())
    assert provenance["source"] == "tfds svhn_cropped 3.1.0"
    assert provenance["splits"] == {"train": "train[0:800]", "val": "train[1890:2090]", "test": "test[0:30]"}
    with pytest.raises(DataError, match=r"svhn_cropped/3\.1\.0 in .* gives 30 test images, SVHN .* has 26032"):
        convert("vtab.svhn", "tfds", tmp_path / "tfds", tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_clevr_from_tfds(tfds: Any, tmp_path: Path) -> None:
    def scene(number: int) -> dict[str, Any]:
        objects = [
            {
                "color": 0, "material": 0, "shape": 0, "size": 0, "rotation": 0.0, "3d_coords": np.zeros(3, np.float32),
                "pixel_coords": np.array([1.0, 2.0, 7.9 + number % 6 * 0.5 + extra], np.float32),
            }
            for extra in range(3 + number % 8)
        ]  # fmt: skip
        stream = io.BytesIO()
        Image.fromarray(noise(number, (8, 12, 3))).save(stream, "jpeg" if number % 2 else "png")
        return {"image": io.BytesIO(stream.getvalue()), "file_name": f"{number}.png", "objects": objects, "question_answer": []}

    store(
        tfds,
        tmp_path / "tfds",
        "clevr",
        "3.1.0",
        dict.fromkeys(("train", "validation", "test"), scene),
        {"train": COUNT, "validation": 40, "test": 1},
    )
    opened = []
    for name in ("vtab.clevr-count", "vtab.clevr-distance"):
        card = dataset_card(name).model_copy(update={"n_test": 40})
        convert_tfds(name, card, tmp_path / name, tmp_path / "tfds")
        opened.append(open_dataset(card, tmp_path))
        assert opened[-1].note == ""
    assert opened[0].splits["test"].labels.tolist() == [number % 8 for number in range(40)]
    assert opened[1].splits["test"].labels.tolist() == [number % 6 for number in range(40)]
    assert opened[0].splits["test"].digest == opened[1].splits["test"].digest
    # What TFDS keeps encoded is written byte for byte.
    assert opened[0].splits["test"].short_name(0).endswith("0.png")
    assert opened[0].splits["test"].short_name(1).endswith("1.jpg")
    assert opened[0].splits["test"].content(1) == scene(1)["image"].getvalue()


def test_kitti_from_tfds(tfds: Any, tmp_path: Path) -> None:
    def drive(number: int) -> dict[str, Any]:
        def seen(kind: str, depth: float) -> dict[str, Any]:
            box = tfds.features.BBox(ymin=0.0, xmin=0.0, ymax=1.0, xmax=1.0)
            place = np.array([0.0, 0.0, depth], np.float32)
            return {
                "type": kind, "truncated": 0.0, "occluded": 0, "alpha": 0.0, "bbox": box, "location": place,
                "dimensions": np.ones(3, np.float32), "rotation_y": 0.0,
            }  # fmt: skip

        vehicles = ([seen("Van", 8.0)], [seen("Car", 50.0), seen("Truck", 20.0)], [seen("Car", 21.0)], [])[number % 4]
        return {"image": noise(number, (6, 20, 3)), "image/file_name": f"{number}", "objects": [*vehicles, seen("Cyclist", 1.0)]}

    store(
        tfds,
        tmp_path / "tfds",
        "kitti",
        "3.2.0",
        dict.fromkeys(("train", "validation", "test"), drive),
        {"train": 900, "validation": 220, "test": 25},
    )
    card = dataset_card("vtab.kitti").model_copy(update={"n_test": 25})
    convert_tfds("vtab.kitti", card, tmp_path / "vtab.kitti", tmp_path / "tfds")
    raw = open_dataset(card, tmp_path)
    assert raw.splits["test"].labels.tolist() == [number % 4 for number in range(25)]
    assert raw.splits["val"].labels.tolist() == [number % 4 for number in range(200)]


def test_dsprites_from_tfds(tfds: Any, tmp_path: Path) -> None:
    def sprite(number: int) -> dict[str, Any]:
        classes = {"shape": 0, "scale": 0, "orientation": number % 40, "x_position": number % 32, "y_position": 0}
        values = {f"value_{key}": 0.5 for key in classes}
        return {"image": noise(number, (64, 64, 1), 2), **{f"label_{key}": value for key, value in classes.items()}, **values}

    store(tfds, tmp_path / "tfds", "dsprites", "2.0.0", {"train": sprite}, {"train": COUNT})
    for name, steps in (("vtab.dsprites-location", 32), ("vtab.dsprites-orientation", 40)):
        card = dataset_card(name).model_copy(update={"n_test": 210})
        convert_tfds(name, card, tmp_path / name, tmp_path / "tfds")
        raw = open_dataset(card, tmp_path)
        assert raw.splits["val"].labels.tolist() == [int(number % steps // (steps / 16)) for number in range(1680, 1880)]
        assert raw.splits["test"].labels.tolist() == [int(number % steps // (steps / 16)) for number in range(1890, 2100)]
        assert np.array_equal(np.asarray(raw.splits["test"].image(0))[..., 2], sprite(1890)["image"][..., 0] * 255)


def test_smallnorb_from_tfds(tfds: Any, tmp_path: Path) -> None:
    def toy(number: int) -> dict[str, Any]:
        labels_ = {"label_category": 0, "instance": 0, "label_lighting": 0}
        images = {"image": noise(number, (96, 96, 1)), "image2": noise(0, (96, 96, 1))}
        return {**images, **labels_, "label_elevation": number % 9, "label_azimuth": number % 18}

    store(tfds, tmp_path / "tfds", "smallnorb", "2.0.0", {"train": toy, "test": toy}, {"train": 800, "test": 440})
    name = "vtab.smallnorb-azimuth"
    card = dataset_card(name).model_copy(update={"n_test": 220})
    convert_tfds(name, card, tmp_path / name, tmp_path / "tfds")
    raw = open_dataset(card, tmp_path)
    assert raw.splits["test"].labels.tolist() == [number % 18 for number in range(220, 440)]
    assert np.array_equal(np.asarray(raw.splits["test"].image(0))[..., 0], toy(220)["image"][..., 0])


def test_unprepared_tfds_data_is_one_line(tfds: Any, tmp_path: Path) -> None:
    """RESISC45 must be fetched by hand."""
    (tmp_path / "tfds").mkdir()
    with pytest.raises(DataError, match=r"TFDS cannot prepare resisc45 3\.0\.0 .*catalog/resisc45") as caught:
        convert("vtab.resisc45", "tfds", tmp_path / "tfds", tmp_path / "root")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "root").exists()
