"""Images with masks: own folders and parquet files, what is refused, the image cache."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from vpbench.core.errors import DataError
from vpbench.data.cache import RaggedImages, prepare
from vpbench.data.catalog import dataset_card
from vpbench.data.masks import IGNORED, MaskValues, nearest
from vpbench.data.protocols import with_all_for_training, with_few_shots
from vpbench.data.raw import RawData
from vpbench.data.sources import open_dataset, open_path, sprites
from vpbench.spec.run_spec import Preprocess

WIDTH, HEIGHT = 12, 8


def mask_of(seed: int, size: tuple[int, int] = (WIDTH, HEIGHT), classes: int = 3) -> Image.Image:
    values = np.random.default_rng(seed).integers(0, classes, size[::-1])
    values[0, 0] = IGNORED
    return Image.fromarray(values.astype(np.uint8))


def image_of(seed: int, size: tuple[int, int] = (WIDTH, HEIGHT)) -> Image.Image:
    return Image.fromarray(np.random.default_rng(100 + seed).integers(0, 256, (*size[::-1], 3), dtype=np.uint8))


def encoded(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "png")
    return stream.getvalue()


def write(root: Path, layout: str = "{kind}/{split}", count: int = 4, **parts: int) -> Path:
    """A folder of images and masks of three classes."""
    number = 0
    for split, images in (parts or {"train": count, "val": 2, "test": 3}).items():
        for place in range(images):
            for kind, make in (("images", image_of), ("masks", mask_of)):
                folder = root / layout.format(kind=kind, split=split)
                folder.mkdir(parents=True, exist_ok=True)
                make(number).save(folder / f"{split}_{place}.png")
            number += 1
    return root


def own(path: Path, **columns: str) -> RawData:
    return open_path(path, columns or None, "mask")


def sizes(raw: RawData) -> list[int]:
    return [len(split) for split in raw.splits.values()]


@pytest.mark.parametrize("layout", ["{kind}/{split}", "{split}/{kind}", "data/{kind}/{split}"])
def test_folders_of_splits(tmp_path: Path, layout: str) -> None:
    raw = own(write(tmp_path, layout))
    assert sizes(raw) == [4, 2, 3]
    assert raw.has_masks and all(split.has_masks for split in raw.splits.values())
    assert raw.class_names == ("0", "1", "2")
    assert np.array_equal(raw.splits["train"].mask(1, (WIDTH, HEIGHT)), np.asarray(mask_of(1)))
    assert np.array_equal(np.asarray(raw.splits["train"].image(1)), np.asarray(image_of(1)))
    assert raw.digest == own(tmp_path).digest


def test_folders_without_splits_are_split(tmp_path: Path) -> None:
    raw = own(write(tmp_path, "{kind}", all=20))
    assert sizes(raw) == [14, 2, 4]
    assert "No splits given: 70 %" in raw.note


def test_names_of_classes(tmp_path: Path) -> None:
    (write(tmp_path) / "classes.txt").write_text("sky\nsea\nland\nship\n")
    raw = own(tmp_path)
    assert raw.class_names == ("sky", "sea", "land", "ship")
    assert "1 of 4 classes has no pixel in a training mask: ship." in raw.note


def test_digest_depends_on_masks(tmp_path: Path) -> None:
    first = own(write(tmp_path / "a"))
    mask_of(77).save(write(tmp_path / "b") / "masks" / "test" / "test_0.png")
    assert own(tmp_path / "b").digest != first.digest
    assert own(tmp_path / "b").splits["test"].digest == first.splits["test"].digest  # of the images alone


def test_palette_images_count_by_their_indices(tmp_path: Path) -> None:
    mask = mask_of(0)
    mask.putpalette([(7 * place) % 256 for place in range(3 * 256)])
    assert mask.mode == "P"
    mask.save(write(tmp_path) / "masks" / "train" / "train_0.png")
    assert np.array_equal(own(tmp_path).splits["train"].mask(0, (WIDTH, HEIGHT)), np.asarray(mask_of(0)))


def frame(**changes: Any) -> dict[str, Any]:
    splits = ["train"] * 4 + ["val"] * 2 + ["test"] * 3
    columns = {
        "image": [{"bytes": encoded(image_of(place))} for place in range(9)],
        "mask": [{"bytes": encoded(mask_of(place))} for place in range(9)],
        "split": splits,
    }
    return {**columns, **changes}


def test_parquet_is_as_a_folder(tmp_path: Path) -> None:
    pq.write_table(pa.table(frame()), tmp_path / "own.parquet")
    raw = own(tmp_path / "own.parquet")
    assert (sizes(raw), raw.class_names) == ([4, 2, 3], ("0", "1", "2"))
    assert raw.digest == own(write(tmp_path / "folder")).digest
    renamed = {{"mask": "truth", "image": "photo"}.get(name, name): values for name, values in frame().items()}
    pq.write_table(pa.table(renamed), tmp_path / "named.parquet")
    assert own(tmp_path / "named.parquet", mask="truth", image="photo").digest == raw.digest


REFUSED = {
    "another size": (lambda: mask_of(0, (WIDTH, HEIGHT + 1)), r"train_0.png is 12 x 9 pixels large and its image 12 x 8"),
    "another mode": (lambda: mask_of(0).convert("RGB"), r"train_0.png has the mode RGB; a mask needs one channel"),
    "all ignored": (lambda: mask_of(0).point(lambda _: IGNORED), r"train_0.png has the value 255 in all pixels"),
    "beyond the classes": (
        lambda: mask_of(0, classes=6),
        r"train_0.png has the value [345], and the 3 classes have the values 0 to 2",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_masks_that_do_not_fit(tmp_path: Path, kind: str) -> None:
    make, message = REFUSED[kind]
    make().save(write(tmp_path) / "masks" / "train" / "train_0.png")
    (tmp_path / "classes.txt").write_text("a\nb\nc\n")
    with pytest.raises(DataError, match=message) as caught:
        own(tmp_path)
    assert "\n" not in str(caught.value)


def test_all_masks_that_do_not_fit_at_once(tmp_path: Path) -> None:
    root = write(tmp_path) / "masks" / "train"
    for place in (0, 1):
        mask_of(place, (WIDTH, HEIGHT + 1)).save(root / f"train_{place}.png")
    mask_of(2).convert("RGB").save(root / "train_2.png")
    with pytest.raises(DataError, match=r"its image 12 x 8.* 2 more masks cannot be used: .*train_1\.png, .*train_2\.png\.$"):
        own(tmp_path)


def test_what_is_missing(tmp_path: Path) -> None:
    (write(tmp_path / "a") / "masks" / "train" / "train_1.png").unlink()
    with pytest.raises(DataError, match=r"images/train/train_1.png has no mask: there is no .*masks/train/train_1.png; add it"):
        own(tmp_path / "a")
    with pytest.raises(DataError, match=r"b has no test images; add a split 'test' with images and masks"):
        own(write(tmp_path / "b", train=3))
    with pytest.raises(DataError, match=r"alone has 1 image, too few to be divided into train, validation and test; add some"):
        own(write(tmp_path / "alone", "{kind}", train=1))
    (tmp_path / "c" / "images" / "train").mkdir(parents=True)
    (tmp_path / "c" / "masks" / "train").mkdir(parents=True)
    with pytest.raises(DataError, match=r"images/train holds no images; put some there"):
        own(tmp_path / "c")


def test_binary_masks_of_0_and_255(tmp_path: Path) -> None:
    root = write(tmp_path)
    for place in range(4):
        mask_of(place).point(lambda value: IGNORED if value else 0).save(root / "masks" / "train" / f"train_{place}.png")
    with pytest.raises(DataError, match=r"the training masks have no values but 0, 255 \(ignored\); segmentation needs two"):
        own(tmp_path)


def test_a_classification_set_and_the_reverse(tmp_path: Path) -> None:
    for split in ("train", "test"):
        for label in ("cat", "dog"):
            (tmp_path / "classes" / split / label).mkdir(parents=True)
            image_of(0).save(tmp_path / "classes" / split / label / "0.png")
    with pytest.raises(DataError, match=r"classes has no masks beside its images; give images/train/\*\.jpg with masks/train"):
        own(tmp_path / "classes")
    with pytest.raises(DataError, match=r"look like images and their masks and not like classes; say --task segmentation"):
        open_path(write(tmp_path / "masks", "{kind}/{split}"))
    pq.write_table(
        pa.table({"image": frame()["image"], "label": [0, 1, 0] * 3, "split": frame()["split"]}), tmp_path / "l.parquet"
    )
    with pytest.raises(DataError, match=r"column 'label' is int64; it must be bytes"):
        own(tmp_path / "l.parquet")


def test_cache_resizes_training_masks_with_their_images(tmp_path: Path) -> None:
    raw = own(write(tmp_path / "data"))
    for _ in range(2):  # built, then read
        data = prepare(raw, Preprocess(), 16, tmp_path / "cache")
        assert data.train.images.shape == (4, 16, 16, 3)
        wanted = np.asarray(mask_of(2))[np.arange(16)[:, None] * HEIGHT // 16, np.arange(16) * WIDTH // 16]
        assert np.array_equal(np.asarray(data.train.masks)[2], wanted)
        assert np.array_equal(np.asarray(data.test.masks)[1], np.asarray(mask_of(7)))  # as in the data set
    kept = prepare(raw, Preprocess(resize="original"), 16, tmp_path / "cache")
    assert np.array_equal(kept.train.images[3], np.asarray(image_of(3)))
    assert np.array_equal(kept.train.masks[3], np.asarray(mask_of(3)))  # type: ignore[index]


def test_masks_of_several_sizes(tmp_path: Path) -> None:
    write(tmp_path / "data")
    for kind, make in (("images", image_of), ("masks", mask_of)):
        make(50, (20, 10)).save(tmp_path / "data" / kind / "test" / "test_1.png")
    data = prepare(own(tmp_path / "data"), Preprocess(), 16, tmp_path / "cache")
    assert isinstance(data.test.masks, RaggedImages)
    assert [data.test.masks[place].shape for place in range(3)] == [(8, 12), (10, 20), (8, 12)]
    assert np.array_equal(data.test.masks[1], np.asarray(mask_of(50, (20, 10))))


def test_protocols_keep_masks(tmp_path: Path) -> None:
    raw = own(write(tmp_path))
    both = with_all_for_training(raw).splits["train"]
    assert np.array_equal(both.mask(5, (WIDTH, HEIGHT)), np.asarray(mask_of(5)))
    assert sizes(with_few_shots(raw, 2)) == [2, 2, 3]


def test_values_of_published_masks() -> None:
    ade = MaskValues(150, first=1, ignored=(0, IGNORED))
    assert ade.class_ids(np.array([0, 1, 150, 255]), "m").tolist() == [255, 0, 149, 255]
    with pytest.raises(DataError, match=r"m has the value 151, and the 150 classes have the values 1 to 150; 0 and 255 is for"):
        ade.class_ids(np.array([151]), "m")
    assert nearest(np.arange(6, dtype=np.uint8).reshape(2, 3), (4, 2)).tolist() == [[0, 1], [0, 1], [3, 4], [3, 4]]


def test_sprites_with_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, count in (("N_TRAIN", 8), ("N_VAL", 2), ("N_TEST", 10)):
        monkeypatch.setattr(sprites, name, count)
    raw = sprites.read("shapes")
    assert (sizes(raw), raw.class_names) == ([8, 2, 10], ("background", "square", "ellipse", "heart"))
    for split in raw.splits.values():
        for place in range(len(split)):
            mask, white = split.mask(place, (64, 64)), np.asarray(split.image(place))[..., 0] > 0
            assert len(np.unique(mask)) == 2
            assert np.array_equal(white, mask > 0)


@pytest.mark.sweep
def test_shares_of_the_sprites_classes() -> None:
    raw = open_dataset(dataset_card("sprites-shapes"))
    split = raw.splits["test"]
    masks = np.stack([split.mask(place, (64, 64)) for place in range(len(split))])
    assert np.bincount(masks.ravel()) / masks.size == pytest.approx([0.829, 0.074, 0.051, 0.046], abs=1e-3)
    assert raw.remarks == ""
