"""Converted data sets: the layout, original files, and what cannot be converted."""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conversion_examples import examples
from miniatures.vtab import NAMES, small_card, write_dsprites, write_norb

from vpbench.core.errors import DataError, UsageError
from vpbench.data.conversion import convert, convertible
from vpbench.data.conversion.draws import drawn
from vpbench.data.conversion.dsprites import FILE, convert_dsprites, stream_rows
from vpbench.data.conversion.norb import convert_norb
from vpbench.data.conversion.vtab_layout import SCRATCH, write_layout
from vpbench.data.sources import open_dataset


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
