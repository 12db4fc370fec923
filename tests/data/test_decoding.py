"""From files to RGB: what must not be lost on the way, and what the papers' loaders lose, which published data sets keep."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps, features

from vpbench.core.errors import DataError, UsageError
from vpbench.data.cache import SplitCache, prepare
from vpbench.data.catalog import dataset_card, dataset_names
from vpbench.data.decoding import decode
from vpbench.data.sources import open_path
from vpbench.planning.plan import make_plan
from vpbench.planning.suites import preprocess_for, suite_card
from vpbench.spec.request import Request
from vpbench.spec.run_spec import Preprocess
from vpbench.store.store import Store

OWN = preprocess_for(suite_card("custom"), None)
CORNERS = np.array([[[250, 0, 0], [0, 250, 0]], [[0, 0, 250], [250, 250, 0]]], np.uint8).repeat(16, 0).repeat(24, 1)


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def deep(values: Any, dtype: type, kind: str = "tiff", **options: Any) -> bytes:
    return encoded(Image.fromarray(np.asarray(values, dtype)), kind, **options)


def grey(content: bytes) -> list[int]:
    return np.asarray(decode(content, "x"))[0, :, 0].tolist()


# Orientation


@pytest.mark.parametrize("kind", ["jpeg", "webp", "tiff", "png", *(["avif"] if features.check("avif") else [])])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_own_photos_are_upright(kind: str, orientation: int) -> None:
    """The camera stores a picture as its sensor lies and says how to turn it."""
    upright = Image.fromarray(CORNERS)
    turned = next(
        image for image in (upright.transpose(way) for way in [*Image.Transpose]) if _exif(image, orientation) == upright
    ) if orientation > 1 else upright  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 100} if kind in ("jpeg", "webp", "avif") else {}
    found = decode(encoded(turned, kind, exif=exif, **options), "photo", OWN)
    assert found.size == (48, 32)
    assert np.abs(np.asarray(found)[4::16, 6::24].astype(int) - CORNERS[4::16, 6::24]).max() < 40


def _exif(image: Image.Image, orientation: int) -> Image.Image:
    image = image.copy()
    image.getexif()[0x0112] = orientation
    return ImageOps.exif_transpose(image)


def test_published_photos_stay_as_the_papers_loaders_read_them() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    content = encoded(Image.fromarray(CORNERS), "png", exif=exif)
    assert np.array_equal(np.asarray(decode(content, "photo")), CORNERS)
    assert decode(content, "photo", OWN).size == (32, 48)


def test_damaged_exif_is_none() -> None:
    content = encoded(Image.fromarray(CORNERS), "jpeg", exif=b"Exif\x00\x00MM\x00*\xff\xff\xff\xff", quality=100)
    assert decode(content, "photo", OWN).size == (48, 32)


# Transparency


def transparent(kind: str) -> Image.Image:
    """A disc that is in alpha alone: every colour is black."""
    alpha = np.zeros((8, 8), np.uint8)
    alpha[2:6, 2:6] = 255
    if kind == "palette":
        image = Image.fromarray((alpha > 0).astype(np.uint8), "P")
        image.putpalette([0] * 768)
        image.info["transparency"] = 0
        return image
    black = Image.new("LA" if kind == "LA" else "RGBA", (8, 8))
    black.putalpha(Image.fromarray(alpha))
    return black


@pytest.mark.parametrize("kind", ["RGBA", "LA", "palette"])
def test_what_is_in_alpha_alone_is_seen(kind: str) -> None:
    content = encoded(transparent(kind), "png")
    pixels = np.asarray(decode(content, "icon", OWN))[..., 0]
    assert pixels[3, 3] == 0
    assert pixels[0, 0] == 255
    red = np.asarray(decode(content, "icon", Preprocess(background="red")))
    assert red[0, 0].tolist() == [255, 0, 0]
    assert not np.asarray(decode(content, "icon")).any()  # as the papers' loaders


def test_half_transparency_is_mixed_with_the_ground() -> None:
    content = encoded(Image.new("RGBA", (1, 1), (0, 0, 0, 102)), "png")
    assert decode(content, "icon", OWN).getpixel((0, 0)) == (153, 153, 153)


def test_one_colour_has_one_spelling() -> None:
    assert Preprocess(background="white") == Preprocess(background="#FFF") == Preprocess(background="#ffffff")
    with pytest.raises(ValueError, match="'whyte' is no colour; write a name such as white, #rrggbb, or ignored"):
        Preprocess(background="whyte")


# Depth


def test_depth_follows_the_values() -> None:
    assert grey(deep([[0, 2048, 4095]], np.uint16)) == [0, 128, 255]  # 12 bits in 16
    assert grey(deep([[0, 32768, 65535]], np.uint16)) == [0, 128, 255]
    assert grey(deep([[0, 32768, 65535]], np.uint16, "png")) == [0, 128, 255]
    assert grey(deep([[0, 128, 255]], np.int32)) == [0, 128, 255]
    assert grey(deep([[0, 512, 1023]], np.int32)) == [0, 128, 255]
    assert grey(deep([[0, 0.5, 1]], np.float32)) == [0, 128, 255]
    assert grey(deep([[0, 100.4, 254.6]], np.float32)) == [0, 100, 255]
    assert grey(deep([[0, 2048, 4095]], np.float32)) == [0, 128, 255]
    assert grey(deep([[0, 0, 0]], np.uint16)) == [0, 0, 0]


def twelve_bits(values: list[int]) -> bytes:
    """A TIFF of one row with 12 bits per sample, packed, as its header states."""
    packed = b"".join(bytes([a >> 4, (a & 15) << 4 | b >> 8, b & 255]) for a, b in zip(values[::2], values[1::2], strict=True))
    entries = {256: len(values), 257: 1, 258: 12, 259: 1, 262: 1, 273: 8, 277: 1, 278: 1, 279: len(packed)}
    directory = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries.items())
    return b"II*\0" + struct.pack("<I", 8 + len(packed)) + packed + struct.pack("<H", len(entries)) + directory + bytes(4)


def test_stated_depth_counts() -> None:
    """No value here needs more than 8 bits."""
    assert grey(twelve_bits([0, 48, 160, 240])) == [0, 3, 10, 15]


@pytest.mark.parametrize(
    ("values", "dtype"),
    [([-1, 300], np.int32), ([0, 70000], np.int32), ([0, 9], np.uint16), ([0, 3.7], np.float32), ([-0.5, 0.5], np.float32)],
)  # fmt: skip
def test_range_that_cannot_be_known_is_refused(values: list[float], dtype: type) -> None:
    with pytest.raises(DataError, match=r"^scan\.tif has samples from .* which value is white cannot be known; convert"):
        decode(deep([values], dtype), "scan.tif")


@pytest.mark.parametrize(("value", "word"), [(np.nan, "NaN"), (np.inf, "infinite"), (-np.inf, "infinite")])
def test_samples_that_are_no_numbers_are_refused(value: float, word: str) -> None:
    with pytest.raises(DataError, match=rf"^scan\.tif has samples that are {word}, which is no brightness; repair it"):
        decode(deep([[0.2, value, 0.4]], np.float32), "scan.tif")


def test_dark_colours_of_16_bits_are_refused(tmp_path: Path) -> None:
    """Of 12 bits in 16 the upper 8 are nearly black, and Pillow reads no others."""
    for place in ("cat", "dog"):
        (tmp_path / place).mkdir()
        for number in range(4):
            (tmp_path / place / f"{number}.png").write_bytes(rgb16(1000 * number + 995))
    with pytest.raises(DataError, match=r"3\.png has 16 bits per channel, of which the upper 8 are read, .* at most 15 in all"):
        open_path(tmp_path)
    (tmp_path / "cat/9.png").write_bytes(rgb16(65535))
    assert open_path(tmp_path).splits["train"].image(0).mode == "RGB"


def rgb16(value: int) -> bytes:
    """A PNG of one pixel with 16 bits per channel."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0)
    pixels = zlib.compress(b"\0" + 3 * struct.pack(">H", value))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def scans(root: Path, brightest: int) -> Path:
    """Two classes of 12-bit scans; one image alone is as bright as ``brightest``."""
    for split in ("train", "test"):
        for place, name in enumerate(("a", "b")):
            (root / split / name).mkdir(parents=True)
            for number in range(3):
                file = root / split / name / f"{number}.tif"
                file.write_bytes(deep(np.full((8, 8), 200 + 100 * place + number), np.uint16))
    (root / "train/a/9.tif").write_bytes(deep([[0, brightest]], np.uint16))
    return root


def test_images_of_a_data_set_share_their_range(tmp_path: Path) -> None:
    """Each by its own range would make dark scans bright."""
    raw = open_path(scans(tmp_path / "12", 4000))
    assert np.asarray(raw.splits["test"].image(0))[0, 0, 0] == round(200 * 255 / 4095)
    assert "Images of more than 8 bits per sample: 13; 4095 is white in them." in raw.note
    brighter = open_path(scans(tmp_path / "16", 60000))
    assert np.asarray(brighter.splits["test"].image(0))[0, 0, 0] == round(200 * 255 / 65535)
    folders = {SplitCache.of(tmp_path, one.splits["test"], OWN, 8, training=False).folder for one in (raw, brighter)}
    assert len(folders) == 2  # the same files, other pixels


def test_images_of_one_colour_are_noted(tmp_path: Path) -> None:
    data = prepare(open_path(scans(tmp_path / "scans", 4000)), OWN, 8, tmp_path / "cache")
    assert data.notes[-1] == "6 of 6 test images are of one colour each."
    again = prepare(open_path(tmp_path / "scans"), OWN, 8, tmp_path / "cache")
    assert again.notes == data.notes


# Identity


def test_every_published_card_says_how_its_images_are_decoded() -> None:
    for name in dataset_names():
        assert dataset_card(name).decoding == {"orientation": "stored", "background": "ignored"}, name
        assert {"orientation", "background"} <= dataset_card(name).model_fields_set


def test_new_cards_are_upright_on_white() -> None:
    plain = dataset_card("digits").model_dump(exclude={"orientation", "background"})
    assert type(dataset_card("digits"))(**plain).decoding == {"orientation": "exif", "background": "#ffffff"}


def test_decoding_is_part_of_the_identity_where_it_is_not_the_papers() -> None:
    assert Preprocess().identity().keys().isdisjoint({"orientation", "background"})
    assert OWN.identity()["orientation"] == "exif"
    mini = suite_card("mini")
    assert preprocess_for(mini, dataset_card("digits").decoding) == mini.preprocess


def test_caches_of_other_pixels_are_others(tmp_path: Path) -> None:
    split = open_path(scans(tmp_path / "scans", 4000)).splits["test"]
    choices = [Preprocess(), Preprocess(orientation="exif"), Preprocess(background="white"), Preprocess(background="black")]
    assert len({SplitCache.of(tmp_path, split, choice, 8, training=False).folder for choice in choices}) == len(choices)


def test_the_ground_is_an_option_of_own_images(tmp_path: Path) -> None:
    images, store = scans(tmp_path / "scans", 4000), Store(tmp_path / "results")

    def planned(**more: Any) -> Any:
        return make_plan(Request(methods=["linear"], precision="fp32", **more), store).runs[0].spec

    white, black = planned(data=str(images)), planned(data=str(images), background="black")
    assert (white.preprocess.background, black.preprocess.background) == ("#ffffff", "#000000")
    assert white.run_id != black.run_id
    with pytest.raises(UsageError, match="--background goes with --data; published data sets have theirs on their cards"):
        planned(suite="mini", background="black")
