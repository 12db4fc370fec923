"""``vpbench predict``: images, folders and parquet files; what cannot be read is named and skipped."""

from __future__ import annotations

import csv
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from command import rows, vpbench
from PIL import Image

import vpbench as package
from vpbench.core.errors import UsageError


@pytest.fixture
def photos(images: Path, tmp_path: Path) -> Path:
    """New images: four good ones, two of them in a folder below."""
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    for number, file in enumerate(sorted((images / "val").rglob("*.png"))[:4]):
        shutil.copy(file, folder / ("more" if number > 1 else "") / f"{number}.png")
    return folder


def run_id(results: Path, method: str = "vpt") -> str:
    found: str = rows(results).query(f"method == '{method}'")["run_id"].item()
    return found


def test_every_format_says_the_same(finished: Path, photos: Path, tmp_path: Path) -> None:
    words = ("predict", run_id(finished)[:8], photos, "--results", finished, "--device", "cpu", "--top", 2)
    as_csv = vpbench(*words, "--format", "csv")
    assert (as_csv.code, as_csv.err) == (0, "")
    table = pd.read_csv(io.StringIO(as_csv.out))
    assert table.columns.tolist() == ["image", "rank", "label", "class", "probability"]
    names = [str(photos / f"{name}.png") for name in ("0", "1", "more/2", "more/3")]
    assert table["image"].tolist() == [name for name in names for _ in range(2)]
    assert table["rank"].tolist() == [1, 2] * 4
    model = package.load_run(run_id(finished), results=finished)
    with torch.no_grad():
        probabilities = model(torch.stack([model.transform(name) for name in table["image"][::2]])).softmax(1)
    assert np.allclose(table["probability"][::2], probabilities.max(1).values, atol=1e-6)
    assert table["class"][::2].tolist() == [model.class_names[label] for label in probabilities.argmax(1)]
    objects = json.loads(vpbench(*words, "--format", "json").out)
    flat = [{"image": each["image"], **one} for each in objects for one in each["predictions"]]
    assert flat == table.drop(columns="rank").to_dict("records")
    for ending, read in ((".csv", pd.read_csv), (".parquet", pd.read_parquet)):
        out = tmp_path / f"found{ending}"
        written = vpbench(*words, "--out", out, "--batch", 3)
        assert (written.code, written.out) == (0, "")
        assert f"predictions of 4 images in {out}" in written.err
        again = read(out)
        assert again.drop(columns="probability").equals(table.drop(columns="probability"))
        assert np.allclose(again["probability"], table["probability"], atol=1e-5)
    shown = vpbench(*words)
    assert all(name in shown.out.replace("\n", "") for name in ("0.png", "3.png", table["class"][0]))
    assert f"{100 * table['probability'][0]:.1f} %" in shown.out


def test_unreadable_images_are_named_and_skipped(finished: Path, photos: Path, tmp_path: Path) -> None:
    (photos / "broken.jpg").write_bytes(b"\xff\xd8 no image")
    pd.DataFrame({"img": [(photos / "0.png").read_bytes(), None, b"text"]}).to_parquet(tmp_path / "some.parquet")
    done = vpbench(
        "predict", run_id(finished), photos, tmp_path / "some.parquet", "--results", finished, "--format", "csv", "--top", 1
    )  # fmt: skip
    assert done.code == 1
    lines = done.err.splitlines()
    assert len(lines) == 4
    assert f"skipped: {photos / 'broken.jpg'} cannot be read as an image" in lines[0]
    assert lines[1] == f"skipped: row 1 of {tmp_path / 'some.parquet'} has no image."
    assert f"skipped: row 2 of {tmp_path / 'some.parquet'} cannot be read as an image" in lines[2]
    assert lines[3] == "vpbench: 3 images of 8 skipped."
    found = list(csv.DictReader(io.StringIO(done.out)))
    assert [row["image"] for row in found][-1] == f"row 0 of {tmp_path / 'some.parquet'}"
    assert found[-1]["probability"] == found[0]["probability"]
    none = vpbench("predict", run_id(finished), photos / "broken.jpg", "--results", finished)
    assert (none.code, none.out) == (3, "")
    assert none.err.splitlines()[-1] == "vpbench: none of 1 image can be read."


def test_an_ensemble_averages_probabilities(finished: Path, photos: Path) -> None:
    words = ("--results", finished, "--format", "json", "--top", 3)
    both, one, other = (
        json.loads(vpbench("predict", name, photos / "0.png", *words, *more).out)[0]["predictions"]
        for name, more in (
            (run_id(finished), ("--ensemble", run_id(finished, "linear"))),
            (run_id(finished), ()),
            (run_id(finished, "linear"), ()),
        )
    )
    means = {name: (prob_of(one, name) + prob_of(other, name)) / 2 for name in ("c0", "c1", "c2")}
    assert {each["class"]: each["probability"] for each in both} == pytest.approx(means, abs=2e-6)


def prob_of(predictions: list[dict[str, float]], name: str) -> float:
    return next(each["probability"] for each in predictions if each["class"] == name)


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("nothing.png",), 3, "nothing.png: there is no such file or folder."),
        (("empty",), 3, "empty holds no images."),
        (("table.parquet",), 3, "table.parquet has no images (it has a, b); name a column of encoded images with --column."),
        (("0.png", "--format", "xml"), 2, "unknown value of --format 'xml'"),
        (("0.png", "--out", "found.txt"), 2, "--out found.txt: give a name that ends with .parquet, .csv, .json."),
        (("0.png", "--out", "found.csv", "--format", "csv"), 2, "--out takes the format of its ending; leave out --format."),
    ],
)
def test_mistakes_are_one_line(
    words: tuple[str, ...], code: int, message: str, finished: Path, work: Path, images: Path
) -> None:  # fmt: skip
    (work / "empty").mkdir()
    pd.DataFrame({"a": [1], "b": ["x"]}).to_parquet(work / "table.parquet")
    shutil.copy(next(images.rglob("*.png")), work / "0.png")
    done = vpbench("predict", run_id(finished), *words, "--results", finished)
    assert done.code == code
    assert message in done.err and len(done.err.splitlines()) == 1


def test_an_ensemble_of_other_classes_is_refused(results: Path, photos: Path, tmp_path: Path) -> None:
    """The same three classes in another order would be averaged wrongly."""
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    path, other = results / "_artefacts" / run_id(results) / "weights.safetensors", tmp_path / "other.safetensors"
    with safe_open(path, "pt") as content:
        metadata = {**content.metadata(), "class_names": json.dumps(["c1", "c0", "c2"])}
    del metadata["sha256"]
    save_file(load_file(path), other, metadata)
    done = vpbench("predict", path, photos, "--ensemble", other)
    assert done.code == 2
    assert f"{other} has other class names: 3 instead of 3, and class 0 is 'c1' instead of 'c0'" in done.err


def test_deep_images_are_scaled_as_those_of_training(tmp_path: Path, unmeasured: None) -> None:
    """16 bits with one white level for the whole data set, which a new image alone does not show."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 4), ("val", 2), ("test", 2)):
        for kind, top in (("dark", 900), ("bright", 4000)):
            (tmp_path / "deep" / split / kind).mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(top // 2, top, (24, 24), dtype=np.uint16)
                Image.fromarray(pixels).save(tmp_path / "deep" / split / kind / f"{number}.png")
    asked = {"data": tmp_path / "deep", "image_size": 40, "epochs": 1, "device": "cpu", "precision": "fp32"}
    row = package.run("linear", results=tmp_path / "runs", **asked).iloc[0]
    model = package.load_run(row["run_id"], results=tmp_path / "runs")
    assert model.description.levels.integer == 4095
    files = sorted((tmp_path / "deep" / "test").rglob("*.png"))
    with torch.no_grad():
        found = model(torch.stack([model.transform(file) for file in files])).softmax(1)
    kept = np.load(tmp_path / "runs" / "_artefacts" / row["run_id"] / "predictions.npz")
    assert np.array_equal(found.max(1).values.numpy(), kept["confidence"])


@pytest.fixture
def street(tmp_path: Path) -> Path:
    """Images of two areas with their masks, wider than high."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 8), ("val", 2), ("test", 3)):
        for kind in ("images", "masks"):
            (tmp_path / "street" / kind / split).mkdir(parents=True)
        for number in range(count):
            mask = np.zeros((30, 40), np.uint8)
            mask[:, int(rng.integers(8, 32)) :] = 1
            pixels = np.where(mask[..., None] == 1, 220, 30) + rng.integers(0, 20, (30, 40, 3))
            Image.fromarray(mask).save(tmp_path / "street" / "masks" / split / f"{number}.png")
            Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "street" / "images" / split / f"{number}.png")
    (tmp_path / "street" / "classes.txt").write_text("road\nsky\n")
    return tmp_path / "street"


def test_masks_of_a_segmentation(street: Path, tmp_path: Path, finished: Path, unmeasured: None) -> None:
    """The PNGs, read as masks of class ids, are the masks that the run's test predicted; the model can be exported, too."""
    asked = {"data": street, "task": "segmentation", "image_size": 40, "epochs": 4, "device": "cpu", "precision": "fp32"}
    row = package.run("linear", results=tmp_path / "runs", **asked).iloc[0]
    assert row["status"] == "ok", row["error"]
    masks = tmp_path / "masks"
    words = ("predict", row["run_id"], street / "images" / "test", "--results", tmp_path / "runs", "--device", "cpu")
    done = vpbench(*words, "--masks", masks, "--format", "csv")
    assert done.code == 0, done.err
    assert done.err == f"3 masks in {masks}.\n"
    table = pd.read_csv(io.StringIO(done.out))
    assert table.columns.tolist() == ["image", "rank", "label", "class", "share"]
    kept = np.load(tmp_path / "runs" / "_artefacts" / row["run_id"] / "predictions.npz")
    for number in range(3):
        image = Image.open(masks / f"{number}.png")
        assert (image.mode, image.size) == ("P", (40, 30))
        assert image.getpalette()[:9] == [0, 0, 0, 128, 0, 0, 0, 128, 0]  # PASCAL VOC's first colours
        mask = np.asarray(image)
        assert np.array_equal(mask, kept[f"image_{number}"])
        shares = table[table["image"] == str(street / "images" / "test" / f"{number}.png")].set_index("class")["share"]
        assert shares["sky"] == pytest.approx((mask == 1).mean(), abs=1e-6)
    assert "sky" in vpbench(*words).out
    exported = vpbench("export", row["run_id"], "--to", "folder", "--out", tmp_path / "out", "--results", tmp_path / "runs")
    assert exported.code == 0, exported.err
    card = (tmp_path / "out" / "README.md").read_text()
    assert "pipeline_tag: image-segmentation" in card and f"{row['miou']:.2f} % on 3 images" in card
    refused = vpbench("predict", run_id(finished), street / "images", "--results", finished, "--masks", masks)
    assert (refused.code, "--masks is for models of a segmentation" in refused.err) == (2, True)


def test_names_of_masks_do_not_collide(tmp_path: Path) -> None:
    from vpbench.deploy.image_list import NamedImage
    from vpbench.deploy.mask_images import MaskFolder
    from vpbench.deploy.prediction import Prediction

    folder = MaskFolder(tmp_path)
    prediction = Prediction(NamedImage("a.jpg", b"", Path("in/a")), np.ones(1, np.float32), np.zeros((2, 2), np.uint8))
    assert [folder.write(prediction).relative_to(tmp_path) for _ in range(2)] == [Path("in/a.png"), Path("in/a-2.png")]
    (tmp_path / "file").touch()
    for place in (tmp_path / "file", tmp_path / "file" / "deeper"):
        with pytest.raises(UsageError, match=f"--masks {place} is a file, or within one"):
            MaskFolder(place)
