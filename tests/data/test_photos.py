"""The suite photos-mini: what its source draws, and the real files where they are."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from vpbench.core.errors import MissingDataError
from vpbench.data.catalog import dataset_card
from vpbench.data.sources import open_dataset, photos
from vpbench.planning.suites import suite_card

# Of the files that docs/data/photos-mini.md describes.
DIGESTS = {
    "photos.cifar10": "c3670bab70595bd3f33a902c9dea178b",
    "photos.cub100": "f457131eceff3456e60f0ee15fd22154",
    "photos.flowers12": "2f51e78154a5f5f2c2c774d0164a8b5d",
    "photos.pets37": "98de6922a51aa08f5cbc27ad176f7cdb",
    "photos.dtd10": "5d1e532cc11f00b7ec6de3b79e9447f2",
    "photos.eurosat1k": "c33342b519d13c56ab088e50d491c30a",
    "photos.gtsrb": "c91f09c72638025bab3f40d437c7e0d0",
}


def photo(value: int) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.full((4, 4, 3), value, np.uint8)).save(stream, "png")
    return stream.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """30 training and 12 test images of three classes."""
    parts = ["train"] * 30 + ["test"] * 12
    table = pa.table(
        {
            "image": [{"bytes": photo(place), "path": f"{place}.png"} for place in range(42)],
            "label": [place % 3 for place in range(42)],
            "split": parts,
        }
    ).replace_schema_metadata({"class_names": json.dumps(["a", "b", "c"])})
    pq.write_table(table, tmp_path / "few.parquet")
    return tmp_path


def test_a_fixed_number_is_drawn(folder: Path) -> None:
    raw = photos.read(folder, "few.parquet", training=12, testing=6)
    assert {name: np.bincount(split.labels).tolist() for name, split in raw.splits.items()} == {
        "train": [4, 4, 4], "val": [], "test": [2, 2, 2]
    }  # fmt: skip
    assert raw.class_names == ("a", "b", "c") and raw.note == ""
    assert raw.digest == photos.read(folder, "few.parquet", training=12, testing=6).digest
    whole = photos.read(folder, "few.parquet", training=1000, testing=1000)
    assert (len(whole.splits["train"]), len(whole.splits["test"])) == (30, 12)
    assert len(set(whole.splits["train"].identities)) == 30


def test_the_card_divides_training_images(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "photos-mini").symlink_to(folder)
    options = {"file": "few.parquet", "training": 12, "testing": 6}
    changes = {"options": options, "n_train": 9, "n_val": 3, "n_test": 6, "classes": 3}
    card = dataset_card("photos.pets37").model_copy(update=changes)
    raw = open_dataset(card, tmp_path / "root")
    assert [len(split) for split in raw.splits.values()] == [9, 3, 6]
    with pytest.raises(MissingDataError, match=r"photos-mini/none\.parquet is missing"):
        open_dataset(card.model_copy(update={"options": {**options, "file": "none.parquet"}}), tmp_path / "root")
    with pytest.raises(MissingDataError, match=r"Write pets37\.parquet from the images"):
        open_dataset(card, tmp_path)


def test_members() -> None:
    card = suite_card("photos-mini")
    assert card.datasets == tuple(DIGESTS) and (card.backbone, card.image_size) == ("vit-tiny-augreg", 64)
    assert {dataset_card(name).group for name in DIGESTS} == {"natural", "texture", "structured"}
    assert all(dataset_card(name).n_train + dataset_card(name).n_val <= 1000 for name in DIGESTS)


@pytest.mark.real
@pytest.mark.parametrize("name", [pytest.param(name, marks=[] if "pets" in name else [pytest.mark.sweep]) for name in DIGESTS])
def test_real_files(name: str, shared: Path, tmp_path: Path) -> None:
    (tmp_path / "photos-mini").symlink_to(shared / "data")
    raw = open_dataset(dataset_card(name), tmp_path)
    assert raw.digest == DIGESTS[name]
    assert raw.note == "" and raw.splits["test"].image(0).mode == "RGB"
