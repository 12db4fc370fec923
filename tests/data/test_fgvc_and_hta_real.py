"""Real images in the official layouts of FGVC and HTA."""

from __future__ import annotations

import io
import json
from pathlib import Path

import miniatures
import numpy as np
import pyarrow.parquet as pq
import pytest
from miniatures import (
    cub,
    dtd,
    encoded,
    gtsrb,
)  # fmt: skip
from PIL import Image

from vpbench.data.catalog import DatasetCard, dataset_card
from vpbench.data.raw import RawData
from vpbench.data.sources import open_dataset, open_path, read_dataset


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
