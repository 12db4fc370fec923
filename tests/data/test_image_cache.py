"""The image cache: correct pixels, and complete or absent."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sweeps import some

from vpbench.core.errors import DataError
from vpbench.core.user_folders import cache_root
from vpbench.data import cache
from vpbench.data.cache import CachedData, RaggedImages, SplitCache, prepare, resized
from vpbench.data.decoding import AS_LOADED
from vpbench.data.raw import PixelSplit, RawData, RawSplit
from vpbench.data.sources import open_path
from vpbench.spec.run_spec import Preprocess

CROP = Preprocess(resize="crop", crop_ratio=0.8, random_crop=True)


class WideSplit(PixelSplit):
    """Image ``i`` is i pixels wider than the first."""

    def image(self, index: int, preprocess: Preprocess = AS_LOADED) -> Image.Image:
        return super().image(index, preprocess).resize((20 + 4 * index, 20))


def make(kind: type[PixelSplit] = PixelSplit, seed: int = 0) -> RawData:
    rng = np.random.default_rng(seed)
    splits: dict[str, RawSplit] = {
        name: kind(rng.integers(0, 256, (count, 20, 20), dtype=np.uint8), np.arange(count) % 2, name)
        for name, count in (("train", 6), ("val", 0), ("test", 4))
    }
    return RawData.of(["a", "b"], splits)


def test_stretched_images_are_one_array(tmp_path: Path) -> None:
    raw, seen = make(WideSplit), []
    data = prepare(raw, Preprocess(), 16, tmp_path, lambda done, total: seen.append((done, total)))
    assert data.train.images.shape == (6, 16, 16, 3)
    assert data.val.images.shape == (0, 16, 16, 3)
    assert data.class_names == ("a", "b")
    assert data.train.labels.tolist() == [0, 1, 0, 1, 0, 1]
    assert seen == [(done, 10) for done in range(1, 11)]
    wanted = raw.splits["train"].image(3).resize((16, 16), Image.Resampling.BICUBIC)
    assert np.array_equal(data.train.images[3], np.asarray(wanted))


def test_second_time_nothing_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = prepare(make(), Preprocess(), 16, tmp_path)
    monkeypatch.setattr(PixelSplit, "image", None)
    second = prepare(make(), Preprocess(), 16, tmp_path, lambda *_: pytest.fail("was built again"))
    assert np.array_equal(first.test.images, second.test.images)
    with pytest.raises(ValueError, match="read-only"):
        second.test.images[0] = 0


def test_random_crops_keep_a_margin_in_train_only(tmp_path: Path) -> None:
    data = prepare(make(WideSplit), CROP, 16, tmp_path)
    assert isinstance(data.train.images, RaggedImages)
    assert [data.train.images[index].shape for index in range(6)] == [(20, 20 + 4 * index, 3) for index in range(6)]
    assert data.test.images.shape == (4, 16, 16, 3)
    same_size = prepare(make(seed=1), CROP, 16, tmp_path)
    assert same_size.train.images.shape == (6, 20, 20, 3)
    assert same_size.train.has_margin
    assert not same_size.test.has_margin


def test_test_images_are_the_centre(tmp_path: Path) -> None:
    image = make(WideSplit).splits["test"].image(2)  # 28 x 20, so that 0.8 of the short side needs no resizing
    assert np.array_equal(resized(image, CROP, 16), np.asarray(image)[2:18, 6:22])
    data = prepare(make(WideSplit), CROP, 16, tmp_path)
    assert np.array_equal(data.test.images[2], np.asarray(image)[2:18, 6:22])
    assert np.array_equal(data.train.take(np.array([2]))[0], np.asarray(data.train.images[2])[2:18, 6:22])


@pytest.mark.parametrize(("width", "height"), [(7, 300), (300, 7), (64, 64), (65, 64), (1, 1)])
@pytest.mark.parametrize("ratio", [0.875, 0.9, 1.0])
def test_any_aspect_gives_the_right_size(width: int, height: int, ratio: float) -> None:
    image = Image.new("RGB", (width, height))
    assert resized(image, Preprocess(resize="crop", crop_ratio=ratio), 32).shape == (32, 32, 3)
    kept = resized(image, Preprocess(resize="crop", crop_ratio=ratio), 32, keep_margin=True)
    assert min(kept.shape[:2]) == round(32 / ratio)
    assert resized(image, Preprocess(), 32).shape == (32, 32, 3)


def test_folder_follows_what_changes_pixels(tmp_path: Path) -> None:
    def folder(preprocess: Preprocess, size: int = 16, seed: int = 0, training: bool = True) -> Path:
        return SplitCache.of(tmp_path, make(seed=seed).splits["train"], preprocess, size, training).folder

    plain = Preprocess()
    for same in ({"random_flip": True}, {"normalisation": "none"}, {"crop_ratio": 0.5}, {"random_crop": True}):
        assert folder(plain.model_copy(update=same)) == folder(plain)
    for other in ({"resize": "crop"}, {"interpolation": "bilinear"}, {"antialias": False}):
        assert folder(plain.model_copy(update=other)) != folder(plain)
    assert folder(CROP) != folder(CROP.model_copy(update={"crop_ratio": 0.5}))
    assert folder(CROP) != folder(CROP.model_copy(update={"random_crop": False}))
    assert folder(CROP, training=False) == folder(CROP.model_copy(update={"random_crop": False}), training=False)
    assert folder(plain, size=32) != folder(plain)
    assert folder(plain, seed=1) != folder(plain)


def test_tasks_with_the_same_images_share_them(tmp_path: Path) -> None:
    """Labels are no part of a cache: VTAB has two tasks on each of dSprites', CLEVR's and SmallNORB's images."""
    first = make()
    other = first.with_splits(test=PixelSplit(first.splits["test"].pixels, np.array([1, 1, 0, 0]), "test"))  # type: ignore[attr-defined]
    prepare(first, Preprocess(), 16, tmp_path)
    data = prepare(other, Preprocess(), 16, tmp_path, lambda *_: pytest.fail("was built again"))
    assert data.test.labels.tolist() == [1, 1, 0, 0]


def test_unsmoothed_resizing_is_that_of_tensorflow() -> None:
    """``tf.image.resize(..., 'bilinear')`` samples at half-pixel centres: halving takes the mean of the two middle pixels."""
    row = np.array([0, 10, 200, 50, 90, 90, 30, 70], np.uint8)
    image = Image.fromarray(np.broadcast_to(row, (8, 8)).copy()).convert("RGB")
    plain = Preprocess(interpolation="bilinear", antialias=False)
    assert resized(image, plain, 4)[0, :, 0].tolist() == [5, 125, 90, 50]
    assert resized(image, plain, 2)[0, :, 0].tolist() == [105, 60]  # of four pixels, the outer two are not looked at
    assert resized(image, Preprocess(interpolation="bilinear"), 2)[0, :, 0].tolist() != [105, 60]


@pytest.mark.parametrize("damage", ["truncated", "missing file", "no summary", "empty folder", "half a summary", "a file"])
def test_broken_cache_is_built_again(tmp_path: Path, damage: str) -> None:
    before = np.array(prepare(make(), Preprocess(), 16, tmp_path).train.images)
    folder = SplitCache.of(tmp_path, make().splits["train"], Preprocess(), 16, training=True).folder
    folders = set(tmp_path.iterdir())
    if damage == "truncated":
        os.truncate(folder / "pixels.bin", 1000)
    elif damage == "missing file":
        (folder / "sizes.npy").unlink()
    elif damage == "half a summary":
        os.truncate(folder / "complete.json", 30)
    elif damage == "no summary":
        (folder / "complete.json").unlink()
    else:
        for file in folder.iterdir():
            file.unlink()
        if damage == "a file":
            folder.rmdir()
            folder.touch()
    built: list[int] = []
    again = prepare(make(), Preprocess(), 16, tmp_path, lambda done, _: built.append(done))
    assert len(built) == 6
    assert np.array_equal(again.train.images, before)
    assert set(tmp_path.iterdir()) == folders


def test_interrupted_build_leaves_whole_splits_only(tmp_path: Path) -> None:
    def interrupt(done: int, _: int) -> None:
        if done == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(make(), Preprocess(), 16, tmp_path, interrupt)
    assert list(tmp_path.iterdir()) == [SplitCache.of(tmp_path, make().splits["train"], Preprocess(), 16, training=True).folder]
    assert len(prepare(make(), Preprocess(), 16, tmp_path).test) == 4


def test_leftovers_of_killed_processes_go_after_a_day(tmp_path: Path) -> None:
    old, young = tmp_path / f"{cache.SCRATCH}old", tmp_path / f"{cache.SCRATCH}young"
    for folder in (old, young):
        (folder / "new").mkdir(parents=True)
    os.utime(old, (0, 0))
    prepare(make(), Preprocess(), 16, tmp_path)
    assert not old.exists()
    assert young.exists()


def test_summary_counts_images_and_bytes(tmp_path: Path) -> None:
    prepare(make(), Preprocess(), 16, tmp_path)
    folder = SplitCache.of(tmp_path, make().splits["train"], Preprocess(), 16, training=True).folder
    summary = json.loads((folder / "complete.json").read_text())
    assert summary["images"] == 6
    assert summary["bytes"]["pixels.bin"] == 6 * 16 * 16 * 3


def test_cache_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"cannot write the image cache .*file.*set VPBENCH_CACHE"):
        prepare(make(), Preprocess(), 16, tmp_path / "file")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DataError, match=r"disk is full.*set VPBENCH_CACHE to a folder with room"):
        prepare(make(), Preprocess(), 16, tmp_path / "full")
    assert list((tmp_path / "full").iterdir()) == []


def test_bad_image_is_named(tmp_path: Path) -> None:
    for split in ("train", "test"):
        for category in ("a", "b"):
            (tmp_path / "data" / split / category).mkdir(parents=True)
            Image.new("RGB", (8, 8)).save(tmp_path / "data" / split / category / "0.png")
    bad = tmp_path / "data" / "test" / "b" / "1.png"
    bad.write_bytes((tmp_path / "data" / "test" / "b" / "0.png").read_bytes()[:-30])
    with pytest.raises(DataError, match=r"test/b/1\.png cannot be read as an image"):
        prepare(open_path(tmp_path / "data"), Preprocess(), 16, tmp_path / "cache")


def test_cache_lies_where_the_environment_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VPBENCH_CACHE", str(tmp_path / "mine"))
    prepare(make(), Preprocess(), 16)
    assert len(list((tmp_path / "mine").iterdir())) == 2
    monkeypatch.delenv("VPBENCH_CACHE")
    assert cache_root().name == "vpbench"


def test_two_processes_build_one_cache(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for place in ("train/a", "train/b", "test/a", "test/b"):
        (tmp_path / "data" / place).mkdir(parents=True)
        for number in range(30):
            Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(tmp_path / "data" / place / f"{number}.png")
    code = (
        "import sys; from pathlib import Path; from vpbench.data.cache import prepare;"
        "from vpbench.data.sources import open_path; from vpbench.spec.run_spec import Preprocess; root = Path(sys.argv[1]);"
        "data = prepare(open_path(root / 'data'), Preprocess(), 32, root / 'cache'); print(int(data.train.images.sum()))"
    )
    both = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    sums = [process.communicate()[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sums[0] == sums[1] != ""
    assert len(list((tmp_path / "cache").iterdir())) == 3


@pytest.mark.real
@pytest.mark.parametrize("name", ["flowers12", "pets37", "eurosat1k", "cub100"])
def test_real_files(shared: Path, tmp_path: Path, name: str) -> None:
    raw = open_path(shared / "data" / f"{name}.parquet")
    data = prepare(raw, Preprocess(), 64, tmp_path)
    assert data.test.images.shape == (len(raw.splits["test"]), 64, 64, 3)
    assert data.train.images.std() > 20


def test_slower_process_uses_the_cache_of_the_faster(tmp_path: Path) -> None:
    """Both find nothing; the second one finishes while the first is still building."""
    raw = make()

    def overtake(done: int, total: int) -> None:
        if done == total:
            prepare(raw, Preprocess(), 16, tmp_path)

    data = prepare(raw, Preprocess(), 16, tmp_path, overtake)
    assert len(list(tmp_path.iterdir())) == 2
    assert np.array_equal(data.test.images, prepare(raw, Preprocess(), 16, tmp_path).test.images)


# Damage


def same(found: CachedData, wanted: CachedData) -> bool:
    """Whether all images of two data sets are equal, ragged ones too."""
    return all(
        np.array_equal(getattr(found, name).images[index], getattr(wanted, name).images[index])
        for name in ("train", "test")
        for index in range(len(getattr(wanted, name)))
    )


def write_later(path: Path, content: bytes, step: int) -> None:
    """Another content at another time, as file systems keep times in steps of milliseconds."""
    path.write_bytes(content)
    os.utime(path, ns=(step, step))


@pytest.mark.parametrize(("name", "count"), some([("pixels.bin", 20), ("sizes.npy", 20), ("complete.json", 30)], 1))
@pytest.mark.parametrize("preprocess", [Preprocess(), pytest.param(CROP, marks=pytest.mark.sweep)], ids=["stretch", "crop"])
def test_flipped_bits_are_never_images(tmp_path: Path, preprocess: Preprocess, name: str, count: int) -> None:
    rng = np.random.default_rng(0)
    wanted = prepare(make(WideSplit), preprocess, 16, tmp_path / "whole")
    prepare(make(WideSplit), preprocess, 16, tmp_path / "cache")
    path = SplitCache.of(tmp_path / "cache", make(WideSplit).splits["train"], preprocess, 16, training=True).folder / name
    for step in range(count):
        damaged = np.frombuffer(path.read_bytes(), np.uint8).copy()
        damaged[rng.integers(0, len(damaged))] ^= np.uint8(1 << rng.integers(0, 8))
        write_later(path, damaged.tobytes(), step + 1)
        assert same(prepare(make(WideSplit), preprocess, 16, tmp_path / "cache"), wanted)


def test_inverted_pixels_are_built_again(tmp_path: Path) -> None:
    """All of the right size, as after a mistake of a disk or of a copy."""
    before = np.array(prepare(make(), Preprocess(), 16, tmp_path).test.images)
    path = SplitCache.of(tmp_path, make().splits["test"], Preprocess(), 16, training=False).folder / "pixels.bin"
    write_later(path, (255 - np.frombuffer(path.read_bytes(), np.uint8)).tobytes(), 1)
    built: list[int] = []
    again = prepare(make(), Preprocess(), 16, tmp_path, lambda done, _: built.append(done))
    assert len(built) == 4
    assert np.array_equal(again.test.images, before)


def test_a_cache_of_an_earlier_version_has_no_checksums_and_is_built_again(tmp_path: Path) -> None:
    prepare(make(), Preprocess(), 16, tmp_path)
    path = SplitCache.of(tmp_path, make().splits["train"], Preprocess(), 16, training=True).folder / "complete.json"
    summary = json.loads(path.read_text())
    del summary["crc32"]
    path.write_text(json.dumps(summary))
    built: list[int] = []
    prepare(make(), Preprocess(), 16, tmp_path, lambda done, _: built.append(done))
    assert len(built) == 6


def test_files_are_checked_once_in_a_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare(make(), Preprocess(), 16, tmp_path)
    monkeypatch.setattr(cache.zlib, "crc32", lambda *_: pytest.fail("was computed again"))
    prepare(make(), Preprocess(), 16, tmp_path)


def test_large_files_are_checked_in_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import zlib

    monkeypatch.setattr(cache, "BLOCK", 1000)
    monkeypatch.setattr(cache, "PIECE", 250)
    content = np.random.default_rng(0).bytes(2500)
    (tmp_path / "file").write_bytes(content)
    assert cache.checksums_of(tmp_path / "file") == tuple(zlib.crc32(content[start : start + 1000]) for start in (0, 1000, 2000))
