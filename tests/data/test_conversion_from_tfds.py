"""Data sets that TFDS has prepared."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vpbench.core.errors import DataError
from vpbench.data.catalog import dataset_card
from vpbench.data.conversion import convert
from vpbench.data.conversion.tfds import convert_tfds
from vpbench.data.sources import open_dataset

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
