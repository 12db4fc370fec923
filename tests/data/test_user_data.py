"""Folders and parquet files of users: what is read, and what is said about those that cannot be used."""

from __future__ import annotations

import io
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageFile

from vpbench.core.errors import DataError
from vpbench.data.decoding import decode
from vpbench.data.sources import open_path


def encoded(seed: int, size: tuple[int, int] = (12, 10), kind: str = "png") -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind)
    return stream.getvalue()


def fill(root: Path, counts: dict[str, int]) -> Path:
    """Folders with random images: {"train/cat": 3}."""
    seed = 0
    for place, count in counts.items():
        (root / place).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            seed += 1
            (root / place / f"{number}.png").write_bytes(encoded(seed))
    return root


def table(rows: list[tuple[Any, Any]], metadata: dict[str, str] | None = None) -> pa.Table:
    """A table of random images with (label, split)."""
    images = [{"bytes": encoded(seed), "path": f"{seed}.png"} for seed in range(len(rows))]
    made = pa.table({"image": images, "label": [row[0] for row in rows], "split": [row[1] for row in rows]})
    return made.replace_schema_metadata(metadata)


ROWS = [(label, split) for split, count in (("train", 3), ("val", 1), ("test", 1)) for label in (3, 7, 8) for _ in range(count)]


@pytest.fixture
def write(tmp_path: Path) -> Callable[[pa.Table], Path]:
    def write(content: pa.Table) -> Path:
        pq.write_table(content, tmp_path / "own.parquet")
        return tmp_path / "own.parquet"

    return write


def counts(path: Path) -> dict[str, int]:
    return {name: len(split) for name, split in open_path(path).splits.items()}


@pytest.mark.parametrize("word", ["val", "valid", "validation", "Val", "dev"])
def test_folder_with_splits(tmp_path: Path, word: str) -> None:
    fill(tmp_path, {"train/cat": 3, "train/dog": 2, f"{word}/dog": 1, f"{word}/cat": 1, "test/cat": 1, "test/dog": 2})
    raw = open_path(tmp_path)
    assert raw.class_names == ("cat", "dog")
    assert raw.splits["train"].labels.tolist() == [0, 0, 0, 1, 1]
    assert raw.splits["test"].labels.tolist() == [0, 1, 1]
    assert raw.splits["test"].name(2) == str(tmp_path / "test" / "dog" / "1.png")
    assert raw.splits["test"].image(0).size == (12, 10)
    assert raw.note == ""


def test_folder_without_splits(tmp_path: Path) -> None:
    raw = open_path(fill(tmp_path, {"cat": 10, "dog": 20}))
    assert {name: np.bincount(split.labels).tolist() for name, split in raw.splits.items()} == {
        "train": [7, 14],
        "val": [1, 2],
        "test": [2, 4],
    }
    assert "70 %" in raw.note


def test_validation_is_cut_from_train(tmp_path: Path) -> None:
    raw = open_path(fill(tmp_path, {"train/a": 20, "train/b": 2, "train/c": 1, "test/a": 1, "test/b": 1, "test/c": 1}))
    assert np.bincount(raw.splits["val"].labels, minlength=3).tolist() == [2, 1, 0]
    assert raw.note == (
        "No validation split: 3 of 23 training images became one, drawn with a fixed seed. Not in val: class 'c'."
    )


def test_labels_with_gaps_are_noted(write: Callable[[pa.Table], Path]) -> None:
    rows = [(label, split) for split in ("train", "val", "test") for label in (0, 99, 199)]
    assert "no count from 0 (0, 99, 199): 3 classes are named after them" in open_path(write(table(rows))).note
    assert open_path(write(table([(label // 99, split) for label, split in rows]))).note == ""


def test_digest_follows_content_and_not_the_place(tmp_path: Path) -> None:
    first = fill(tmp_path / "first", {"train/a": 3, "train/b": 3, "test/a": 1, "test/b": 1})
    shutil.copytree(first, tmp_path / "second")
    digest = open_path(first).digest
    assert open_path(tmp_path / "second").digest == digest
    (tmp_path / "second/train/a/0.png").write_bytes(encoded(99))
    assert open_path(tmp_path / "second").digest != digest


def test_other_files_are_ignored(tmp_path: Path) -> None:
    fill(tmp_path, {"train/a": 2, "train/b": 2, "test/a": 1, "test/b": 1, ".cache/x": 1, "train/__MACOSX": 1})
    for place in ("README.md", "train/a/notes.txt", "train/a/._0.png", "train/a/Thumbs.db"):
        (tmp_path / place).write_bytes(b"no image")
    (tmp_path / "train/a/deeper").mkdir()
    (tmp_path / "train/a/deeper/big.JPG").write_bytes(encoded(50, kind="jpeg"))
    raw = open_path(tmp_path)
    assert raw.class_names == ("a", "b")
    assert sum(len(split) for split in raw.splits.values()) == 7


def test_unreadable_images_are_left_out_on_request(tmp_path: Path) -> None:
    """As if they were not there: the same splits and the same digest as without the files."""
    root = fill(tmp_path / "a", {"cat": 12, "dog": 11})
    shutil.copytree(root, tmp_path / "b")
    for place in ("cat/3.png", "dog/4.png"):
        (root / place).write_bytes((root / place).read_bytes()[:60])
        (tmp_path / "b" / place).unlink()
    kept, whole = open_path(root, skip_unreadable=True), open_path(tmp_path / "b", skip_unreadable=True)
    assert (kept.digest, kept.unreadable, whole.unreadable) == (whole.digest, 2, 0)
    assert kept.note == f"Left out, as they cannot be read: 2 images (cat/3.png, dog/4.png). {whole.note}"
    assert kept.all_flaws == ("Left out, as they cannot be read: 2 images (cat/3.png, dog/4.png).",) and not whole.all_flaws
    with_fewer = kept.with_splits(test=kept.splits["train"])
    assert (with_fewer.unreadable, with_fewer.flaws) == (2, kept.flaws)
    assert open_path(root).digest != whole.digest
    for file in (root / "dog").iterdir():
        file.write_bytes(b"")
    with pytest.raises(DataError, match=r"has one class only, class 'cat'"):
        open_path(root, skip_unreadable=True)


def test_unreadable_rows_and_masks_are_left_out(tmp_path: Path, write: Callable[[pa.Table], Path]) -> None:
    content = table(ROWS).to_pydict()
    content["image"][1] = {"bytes": b"no image", "path": "1.png"}
    raw = open_path(write(pa.table(content)), skip_unreadable=True)
    assert (raw.unreadable, len(raw.splits["train"])) == (1, 8)
    assert "1 image (row 1 of own.parquet)" in raw.note  # rows of runs hold the note, and no path of this machine

    for number in range(12):
        for folder in ("images", "masks"):
            (tmp_path / "pairs" / folder).mkdir(parents=True, exist_ok=True)
            mode, size = ("RGB", (9, 8)) if folder == "images" else ("L", (9, 8))
            picture = Image.new(mode, size, number)  # type: ignore[arg-type]
            picture.putpixel((0, 0), 1)
            picture.save(tmp_path / "pairs" / folder / f"{number}.png")
    (tmp_path / "pairs" / "masks" / "7.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"masks/7.png cannot be read as an image"):
        open_path(tmp_path / "pairs", target="mask")
    pairs = open_path(tmp_path / "pairs", target="mask", skip_unreadable=True)
    assert pairs.unreadable == 1
    assert sum(len(split) for split in pairs.splits.values()) == 11


def test_trains_may_be_a_class(tmp_path: Path) -> None:
    assert open_path(fill(tmp_path, {"train": 10, "bus": 10})).class_names == ("bus", "train")


def test_images_shared_with_train_are_noted(tmp_path: Path) -> None:
    fill(tmp_path, {"train/a": 3, "train/b": 3, "val/a": 1, "val/b": 1, "test/a": 1, "test/b": 1})
    shutil.copy(tmp_path / "train/a/0.png", tmp_path / "test/a/again.png")
    raw = open_path(tmp_path)
    assert raw.remarks == "Also in train: 1 of 3 test images." and raw.all_flaws == (raw.remarks,)


BAD_FOLDERS = {
    "no images": ({}, "holds no images in class folders"),
    "flat": ({".": 3}, "holds no images in class folders"),
    "flat splits": ({"train": 3, "test": 3}, r"test holds no images in class folders; put them in .*test/CLASS"),
    "empty split": ({"train/a": 2, "train/b": 2, "test/a": 0}, r"test holds no images in class folders"),
    "no test": ({"train/a": 2, "train/b": 2, "val/a": 1}, "has no test images; add a split 'test' with images of every class.$"),
    "no train": ({"test/a": 2, "test/b": 2}, "has no train images"),
    "test only class": (
        {"train/a": 3, "train/b": 3, "test/a": 1, "test/b": 1, "test/newt": 1},
        "test has images of class 'newt', train has none",
    ),
    "val only class": (
        {"train/a": 3, "train/b": 3, "val/newt": 1, "test/a": 1, "test/b": 1},
        "val has images of class 'newt', train has none",
    ),
    "class without test": ({"train/a": 3, "train/b": 3, "test/a": 1}, "train has images of class 'b', test has none"),
    "one class": ({"train/a": 3, "test/a": 3}, "one class only, class 'a'"),
    "one image": ({"a": 3, "b": 1}, "class 'b' has 1 image, too few to be divided .* add images, .* or take the class out"),
    "one image each": ({"a": 3, "b": 1, "c": 1}, "classes 'b', 'c' have 1 image each, too few"),
    "capital letters": (
        {"train/Cat": 3, "train/Dog": 3, "test/cat": 1, "test/dog": 1},
        "train has none; .* In train there is 'Cat', 'Dog': capital letters count, so write each class in one way.$",
    ),
    "split twice": (
        {"train/a": 2, "val/a": 1, "valid/a": 1, "test/a": 1},
        "has both 'val' and 'valid', which are one split",
    ),
}


@pytest.mark.parametrize("case", BAD_FOLDERS)
def test_bad_folder(tmp_path: Path, case: str) -> None:
    places, message = BAD_FOLDERS[case]
    with pytest.raises(DataError, match=message) as caught:
        open_path(fill(tmp_path, places))
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_val_may_lack_a_class(tmp_path: Path) -> None:
    raw = open_path(fill(tmp_path, {"train/a": 3, "train/b": 3, "val/b": 1, "test/a": 1, "test/b": 1}))
    assert raw.splits["val"].labels.tolist() == [1]
    assert raw.note == "Not in val: class 'a'."


def test_class_ids_come_from_train_only(write: Callable[[pa.Table], Path]) -> None:
    """val lacks class 7: its 8 must still be id 2."""
    raw = open_path(write(table([row for row in ROWS if row != (7, "val")])))
    assert raw.class_names == ("3", "7", "8")
    assert raw.splits["val"].labels.tolist() == [0, 2]
    assert raw.note.endswith(": 3 classes are named after them. Not in val: class '7'.")


@pytest.mark.parametrize("columns", ["bytes", "category", "text"])
def test_other_column_types(write: Callable[[pa.Table], Path], columns: str) -> None:
    content = table(ROWS)
    if columns == "bytes":
        content = content.set_column(0, "image", pa.array([image["bytes"] for image in content["image"].to_pylist()]))
    elif columns == "category":
        content = content.set_column(2, "split", content["split"].dictionary_encode())
    else:
        content = content.set_column(1, "label", content["label"].cast(pa.string()))
    raw = open_path(write(content))
    assert raw.class_names == ("3", "7", "8")
    assert raw.splits["train"].labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert raw.splits["test"].image(0).tobytes() == Image.open(io.BytesIO(encoded(12))).tobytes()
    assert raw.splits["test"].name(0).startswith("row 12 of ")


@pytest.mark.parametrize("key", ["class_names", "huggingface"])
def test_class_names_of_the_metadata(write: Callable[[pa.Table], Path], key: str) -> None:
    names: Any = [f"name {number}" for number in range(9)]
    if key == "huggingface":
        names = {"info": {"features": {"label": {"_type": "ClassLabel", "names": names}}}}
    assert open_path(write(table(ROWS, {key: json.dumps(names)}))).class_names == ("name 3", "name 7", "name 8")


def with_null(column: str) -> pa.Table:
    content = table(ROWS)
    values = content[column].to_pylist()
    values[4] = None if column != "image" else {"bytes": None, "path": "x.png"}
    return content.set_column(content.schema.get_field_index(column), column, pa.array(values, content[column].type))


BAD_TABLES: dict[str, tuple[Callable[[], pa.Table], str]] = {
    "no image": (lambda: table(ROWS).drop_columns(["image"]), r"no column 'image' \(it has label, split\)"),
    "no label": (lambda: table(ROWS).drop_columns(["label"]), "no column 'label'"),
    "no split": (lambda: table(ROWS).drop_columns(["split"]), "no column 'split'.*train, val or test"),
    "no rows": (lambda: table(ROWS).slice(0, 0), "holds no images"),
    "strange split": (lambda: table([*ROWS, (3, "extra")]), "row 15 has split 'extra'; use train, val"),
    "label of floats": (lambda: table([(1.5, "train")]), "column 'label' is double"),
    "split of numbers": (lambda: table([(1, 0)]), "column 'split' is int64"),
    "images of text": (lambda: table(ROWS).set_column(0, "image", pa.array(["x"] * 15)), "column 'image' is string"),
    "negative label": (lambda: table([(-1, "train"), (99, "train"), (199, "test")]), "label -1 means no label in many data sets"),
    "null label": (lambda: with_null("label"), "row 4 of column 'label' has no label"),
    "null split": (lambda: with_null("split"), "row 4 of column 'split' has no split"),
    "image without bytes": (lambda: with_null("image"), "row 4 of column 'image' has no bytes"),
    "no test": (lambda: table([row for row in ROWS if row[1] != "test"]), "has no test images"),
    "too few names": (lambda: table(ROWS, {"class_names": '["a"]'}), "label 3 has no name among the 1 class names"),
    "class missing in train": (lambda: table([*ROWS, (9, "test")]), "test has images of class '9', train has none"),
    "class missing in test": (lambda: table([*ROWS, (9, "train")]), "train has images of class '9', test has none"),
}


@pytest.mark.parametrize("case", BAD_TABLES)
def test_bad_parquet(write: Callable[[pa.Table], Path], case: str) -> None:
    make, message = BAD_TABLES[case]
    with pytest.raises(DataError, match=message) as caught:
        open_path(write(make()))
    assert "own.parquet" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_not_a_parquet_file(tmp_path: Path, write: Callable[[pa.Table], Path]) -> None:
    whole = write(table(ROWS)).read_bytes()
    for name, content in {"empty": b"", "text": b"no parquet at all", "half": whole[: len(whole) // 2]}.items():
        path = tmp_path / f"{name}.parquet"
        path.write_bytes(content)
        with pytest.raises(DataError, match=f"{name}.parquet is not a readable parquet file"):
            open_path(path)


def test_missing_path(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere does not exist; give a folder"):
        open_path(tmp_path / "nowhere")


def test_permission_denied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulated, for root may read everything."""
    fill(tmp_path, {"train/a": 2, "train/b": 2, "test/a": 1, "test/b": 1})

    def refuse(path: Any, *_: Any) -> Any:
        raise PermissionError(13, "Permission denied", str(path))

    scandir = os.scandir
    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", lambda place: refuse(place) if str(place).endswith("/a") else scandir(place))
        with pytest.raises(DataError, match=r"/a may not be read \(permission denied\)"):
            open_path(tmp_path)
    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(DataError, match=r"/a/0.png cannot be read \(Permission denied\)"):
        open_path(tmp_path)


@pytest.mark.parametrize("kind", ["png", "jpeg", "gif", "bmp"])
def test_truncated_images_are_errors(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even if another library has set LOAD_TRUNCATED_IMAGES."""
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    content = encoded(0, (64, 64), kind)
    assert decode(content, "whole").size == (64, 64)
    for part in (content[: len(content) // 2], content[:20], b""):
        with pytest.raises(DataError, match=r"^cat\.jpg cannot be read as an image"):
            decode(part, "cat.jpg")


def test_other_pixel_formats() -> None:
    for mode in ("L", "LA", "RGBA", "P", "1"):
        stream = io.BytesIO()
        Image.open(io.BytesIO(encoded(0))).convert(mode).save(stream, "png")
        assert decode(stream.getvalue(), mode).mode == "RGB"
    stream = io.BytesIO()
    Image.fromarray(np.array([[0, 256, 65535]], np.uint16)).save(stream, "png")
    assert np.asarray(decode(stream.getvalue(), "16 bit"))[0, :, 0].tolist() == [0, 1, 255]


@pytest.mark.real
@pytest.mark.parametrize(
    ("name", "classes", "sizes"),
    [
        ("flowers12", 12, (626, 71, 240)),
        ("eurosat1k", 10, (720, 80, 200)),
        ("pets37", 37, (259, 37, 74)),
        ("cub100", 100, (1300, 200, 1000)),
    ],
)
def test_real_files(shared: Path, name: str, classes: int, sizes: tuple[int, int, int]) -> None:
    raw = open_path(shared / "data" / f"{name}.parquet")
    assert len(raw.class_names) == classes
    assert tuple(len(split) for split in raw.splits.values()) == sizes
    assert raw.note.startswith("No validation split")
    assert all(len(split.image(0).getbands()) == 3 for split in raw.splits.values())
