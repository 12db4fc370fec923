"""Folders of images as people have them: what their splits are called, what lies between the images, and what is said of it."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features

from vpbench.core.errors import DataError
from vpbench.data.sources import open_path
from vpbench.data.sources._split_names import split_of


def encoded(seed: int, kind: str = "png") -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)).save(stream, kind)
    return stream.getvalue()


def fill(root: Path, *places: str, count: int = 2) -> Path:
    """Different images in each of the folders."""
    for place in places:
        (root / place).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            seed = len([*root.rglob("*")])
            (root / place / f"{number}.png").write_bytes(encoded(seed))
    return root


def sizes(root: Path) -> tuple[int, ...]:
    return tuple(len(split) for split in open_path(root).splits.values())


NAMES = {
    "train": ["train", "Training", "TRAIN", "seg_train", "my-train", "training_set", "train_images", "train.set"],
    "val": ["val", "valid", "Validation", "dev", "seg_val", "validation_set"],
    "test": ["test", "Testing", "seg_test", "test_set", "test-images"],
    "": ["trains", "train_station", "test_tube", "holdout", "cat", "latest", "contest", "development"],
}


@pytest.mark.parametrize(("split", "name"), [(split, name) for split, names in NAMES.items() for name in names])
def test_usual_names_of_splits(split: str, name: str) -> None:
    assert split_of(name) == (split or None)


@pytest.mark.parametrize(
    ("train", "val", "test"),
    [
        ("Training", "Validation", "Testing"),
        ("seg_train/seg_train", "seg_dev/seg_dev", "seg_test/seg_test"),
        ("training_set/training_set", "dev", "test_set/test_set"),
        ("archive/flowers/train", "archive/flowers/valid", "archive/flowers/test"),
        ("data/train/images", "data/val/images", "data/test/images"),
    ],
)
def test_layouts_with_splits(tmp_path: Path, train: str, val: str, test: str) -> None:
    fill(tmp_path, f"{train}/cat", f"{train}/dog", count=3)
    fill(tmp_path, f"{val}/cat", f"{val}/dog", count=1)
    fill(tmp_path, f"{test}/cat", f"{test}/dog")
    raw = open_path(tmp_path)
    assert raw.class_names == ("cat", "dog")
    assert sizes(tmp_path) == (6, 2, 4)
    assert ("Read from" in raw.note) == train.startswith(("archive", "data"))


def test_a_nested_folder_of_classes(tmp_path: Path) -> None:
    raw = open_path(fill(tmp_path, "archive/cat", "archive/dog", count=10))
    assert raw.class_names == ("cat", "dog")
    assert raw.note.startswith("Read from its folder 'archive'. No splits given")


def test_classes_with_the_name_of_a_split(tmp_path: Path) -> None:
    assert open_path(fill(tmp_path, "steam_train", "crash_test", "bus", count=10)).class_names == (
        "bus", "crash_test", "steam_train",
    )  # fmt: skip


@pytest.mark.parametrize("tops", [("fold1", "fold2"), ("entrainement", "essai", "verification")])
def test_splits_of_unknown_names_are_no_classes(tmp_path: Path, tops: tuple[str, ...]) -> None:
    fill(tmp_path, *(f"{top}/{name}" for top in tops for name in ("cat", "dog")))
    with pytest.raises(DataError, match=rf"\('{tops[0]}', .* all hold folders of the same names \('cat', 'dog'\).*call "):
        open_path(tmp_path)


def test_classes_may_keep_their_images_in_a_folder(tmp_path: Path) -> None:
    fill(tmp_path, "cat/images", "dog/images", count=10)
    assert open_path(tmp_path).class_names == ("cat", "dog")
    fill(tmp_path, "cat/kittens")
    assert sum(sizes(tmp_path)) == 22


def test_unknown_folder_beside_splits(tmp_path: Path) -> None:
    fill(tmp_path, "train/cat", "train/dog", "holdout/cat", "holdout/dog")
    with pytest.raises(DataError, match=r"has no test images; .* Ignored: folder 'holdout' with 4 images, which is no split"):
        open_path(tmp_path)
    fill(tmp_path, "test/cat", "test/dog")
    assert "folder 'holdout' with 4 images, which is no split" in open_path(tmp_path).note


def test_many_folders_beside_splits_are_counted(tmp_path: Path) -> None:
    fill(tmp_path, "train/cat", "train/dog", *(f"other{number}/cat" for number in range(5)))
    words = r"Ignored: 10 images in 5 folders that are no splits \('other0', 'other1', 'other2' and 2 more\)\.$"
    with pytest.raises(DataError, match=words):
        open_path(tmp_path)


def test_what_was_left_out_stays_with_runs_unless_it_is_hidden(tmp_path: Path) -> None:
    fill(tmp_path, "train/cat", "train/dog", "test/cat", "test/dog")
    (tmp_path / ".DS_Store").write_bytes(b"")
    raw = open_path(tmp_path)
    assert "Ignored: 1 hidden." in raw.note and raw.all_flaws == ()
    fill(tmp_path, "holdout/cat")
    assert open_path(tmp_path).all_flaws == ("Ignored: 1 hidden; folder 'holdout' with 2 images, which is no split.",)


def test_two_folders_for_one_split(tmp_path: Path) -> None:
    fill(tmp_path, "train/cat", "test/cat", "dev/cat", "val/cat")
    with pytest.raises(DataError, match="has both 'dev' and 'val', which are one split"):
        open_path(tmp_path)


SUFFIXES = ["a.jfif", "a.JPE", "plain", "a.jpeg.bak", "a.dat"]


def test_every_image_that_pillow_opens_counts(tmp_path: Path) -> None:
    fill(tmp_path, "train/cat", "train/dog", "test/cat", "test/dog", count=1)
    for number, name in enumerate(SUFFIXES):
        (tmp_path / "train/cat" / name).write_bytes(encoded(100 + number, "jpeg"))
    assert sizes(tmp_path)[0] + sizes(tmp_path)[1] == 2 + len(SUFFIXES)
    assert "Ignored" not in open_path(tmp_path).note


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow reads no AVIF")
def test_a_class_of_avif(tmp_path: Path) -> None:
    fill(tmp_path, "cat", count=10)
    (tmp_path / "dog").mkdir()
    for number in range(10):
        (tmp_path / "dog" / f"{number}.avif").write_bytes(encoded(50 + number, "avif"))
    raw = open_path(tmp_path)
    assert raw.class_names == ("cat", "dog")
    assert raw.splits["test"].image(3).size == (6, 6)


def test_what_is_left_out_is_counted(tmp_path: Path) -> None:
    fill(tmp_path, "train/cat", "train/dog", "test/cat", "test/dog", count=3)
    fill(tmp_path, "train/cat/__MACOSX", "train/cat/.thumbnails", "train/dog/deep/.hidden", "train/empty/.hidden", count=5)
    fill(tmp_path, ".", "train", count=1)
    for place in ("README.md", "train/cat/notes.txt", "train/dog/labels.txt", "test/cat/index", "test/dog/._0.png"):
        (tmp_path / place).write_bytes(b"no image")
    raw = open_path(tmp_path)
    assert sizes(tmp_path) == (4, 2, 6)
    assert raw.note.startswith(
        "Ignored: 4 files that Pillow does not know as images (no suffix 1, .md 1, .txt 2); 5 hidden; "
        "2 images outside class folders. Class folders without images: 'train/empty'."
    )


def test_damaged_images_are_not_left_out(tmp_path: Path) -> None:
    fill(tmp_path, "train/cat", "train/dog", "test/cat", "test/dog")
    (tmp_path / "test/dog/0.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"test/dog/0\.png cannot be read as an image"):
        open_path(tmp_path).splits["test"].image(2)


@pytest.mark.parametrize(
    ("link", "target"),
    [("cat/back", ".."), ("cat/back", "../.."), ("cat/self", "."), ("cat/deep/up", ".."), ("cat/other", "../dog"), ("loop", ".")],
)
def test_links_that_loop(tmp_path: Path, link: str, target: str) -> None:
    root = fill(tmp_path / "photos", "cat", "cat/deep", "dog", count=5)
    (root / link).symlink_to(target, target_is_directory=True)
    raw = open_path(root)
    assert sum(len(split) for split in raw.splits.values()) == 15
    assert raw.class_names == ("cat", "dog")
    assert "1 link to folders that are read anyway" in raw.note


def test_links_to_other_places_are_followed_once(tmp_path: Path) -> None:
    store = fill(tmp_path / "store", "cats", count=5)
    root = fill(tmp_path / "photos", "dog", count=5)
    (root / "cat").symlink_to(store / "cats", target_is_directory=True)
    (root / "dog" / "more").symlink_to(fill(tmp_path / "more", ".", count=4), target_is_directory=True)
    (root / "dog" / "again").symlink_to(tmp_path / "more", target_is_directory=True)
    raw = open_path(root)
    assert list(raw.class_names) == ["cat", "dog"]
    assert sum(len(split) for split in raw.splits.values()) == 14
