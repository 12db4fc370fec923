"""RESISC45 from an archive or a folder like its authors', in TFDS's order."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from file_server import FileServer, serving
from PIL import Image
from sweeps import some

from vpbench.core.errors import DataError
from vpbench.data import conversion
from vpbench.data.catalog import Download, dataset_card
from vpbench.data.conversion import convert, default_source, fetch_original, in_order
from vpbench.data.conversion.resisc45 import ARCHIVE, TASK, convert_resisc45, tfds_order
from vpbench.data.sources import open_dataset

COUNT = 1_500  # enough for 800 images before 60 %, 200 behind that
CLASSES = ("airplane", "railway", "railway_station")
CARD = dataset_card(TASK).model_copy(update={"classes": 3, "n_test": COUNT // 5, "options": {"names": list(CLASSES)}})


def picture(number: int) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.full((4, 4, 3), number % 256, np.uint8)).save(stream, "jpeg")
    return stream.getvalue() + number.to_bytes(2, "big")  # bytes behind the end, so that each is its own


FILES = {f"{CLASSES[n % 3]}/{CLASSES[n % 3]}_{n // 3:03d}.jpg": picture(n) for n in range(COUNT)}


def archive(path: Path, files: dict[str, bytes] = FILES) -> Path:
    with zipfile.ZipFile(path, "w") as stream:
        stream.writestr("__MACOSX/NWPU-RESISC45/airplane/._a.jpg", b"x")
        for name, content in files.items():
            stream.writestr(f"NWPU-RESISC45/{name}", content)
    return path


def folder(path: Path) -> Path:
    for name, content in FILES.items():
        file = path / "NWPU-RESISC45" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    return path


def test_order_is_tfds() -> None:
    """Sorted by md5 of the split's name and the key; the figures are those of TFDS 4.9.10's Shuffler."""
    assert tfds_order("train", ["airplane_airplane_001.jpg", "beach_beach_700.jpg", "wetland_wetland_350.jpg"]) == [
        "wetland_wetland_350.jpg", "beach_beach_700.jpg", "airplane_airplane_001.jpg",
    ]  # fmt: skip


def test_order_is_that_of_the_library(tmp_path: Path) -> None:
    shuffle = pytest.importorskip("tensorflow_datasets.core.shuffle", reason="NOT RUN: install vpbench[tfds-light]")
    keys = [f"{name.partition('/')[0]}_{name.partition('/')[2]}" for name in FILES]
    shuffler = shuffle.Shuffler(dirpath=tmp_path, hash_salt="train", disable_shuffling=False)
    for key in keys:
        shuffler.add(key, key.encode())
    assert tfds_order("train", keys) == [data.decode() for _, data in shuffler]


@pytest.mark.parametrize("make", some([lambda place: archive(place / "a.zip"), folder], 1))
def test_an_archive_and_a_folder_give_the_same(make: Callable[[Path], Path], tmp_path: Path) -> None:
    target = convert_resisc45(TASK, CARD, tmp_path / "root" / TASK, make(tmp_path), images=COUNT)
    raw = open_dataset(CARD, tmp_path / "root")
    keys = {f"{name.partition('/')[0]}_{name.partition('/')[2]}": name for name in FILES}
    order = [keys[key] for key in tfds_order("train", list(keys))]
    for part, members in {"train": order[:800], "val": order[900:1100], "test": order[1200:]}.items():
        split = raw.splits[part]
        assert [split.content(index) for index in range(len(split))] == [FILES[name] for name in members]
        assert [CLASSES[label] for label in split.labels] == [name.partition("/")[0] for name in members]
    assert json.loads((target / "provenance.json").read_text())["note"] == ""


def damage(path: Path) -> None:
    content = FILES["airplane/airplane_000.jpg"]
    path.write_bytes(path.read_bytes().replace(content, bytes(len(content))))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: path.unlink(), "does not exist"),
        (lambda path: path.write_bytes(path.read_bytes()[:3000]), "is no readable .zip file"),
        (lambda path: archive(path, dict(list(FILES.items())[1:])), "holds 1499 images in class folders"),
        (damage, "is damaged"),
    ],
)
def test_what_is_refused(spoil: Callable[[Path], object], message: str, tmp_path: Path) -> None:
    path = archive(tmp_path / "a.zip")
    spoil(path)
    with pytest.raises(DataError, match=message) as caught:
        convert_resisc45(TASK, CARD, tmp_path / "root" / TASK, path, images=COUNT)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "root" / TASK).exists()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with serving() as running:
        yield running


def test_the_archive_is_fetched_from_a_mirror(server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With its checksum, once."""
    import hashlib

    content = archive(tmp_path / "a.zip").read_bytes()
    mirror = server.put("NWPU-RESISC45.zip", content)
    there = Download(url=f"{server.url}/gone/NWPU-RESISC45.zip", mirrors=(mirror,), sha256=hashlib.sha256(content).hexdigest())
    monkeypatch.setitem(conversion.DOWNLOADS, TASK, there)
    path = fetch_original(TASK, tmp_path / "root")
    assert path == tmp_path / "root" / "downloads" / "NWPU-RESISC45.zip"
    assert path.read_bytes() == content
    exchanges = len(server.exchanges)
    assert fetch_original(TASK, tmp_path / "root") == path
    assert len(server.exchanges) == exchanges
    assert fetch_original("vtab.dtd", tmp_path / "root") is None


def test_an_archive_that_is_nowhere(server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = Download(url=f"{server.url}/a.zip", mirrors=(f"{server.url}/b.zip",), md5="0" * 32)
    monkeypatch.setitem(conversion.DOWNLOADS, TASK, there)
    with pytest.raises(DataError, match=r"a\.zip .*404.* .*b\.zip .*404.*--from original --path a\.zip"):
        fetch_original(TASK, tmp_path / "root")
    assert not (tmp_path / "root" / "downloads").exists()


def test_mirrors_need_a_checksum() -> None:
    with pytest.raises(ValueError, match="mirrors need the md5 or sha256"):
        Download(url="https://a.invalid/x", mirrors=("https://b.invalid/x",))
    assert ARCHIVE.sha256 and ARCHIVE.size == 427_389_445


def test_what_needs_a_login_comes_last() -> None:
    names = ["vtab.retinopathy", "vtab.clevr-count", "vtab.dtd", "vtab.clevr-distance", "vtab.resisc45"]
    assert in_order(names) == ["vtab.clevr-count", "vtab.clevr-distance", "vtab.dtd", "vtab.resisc45", "vtab.retinopathy"]
    assert [default_source(name) for name in names] == ["tfds", "tfds", "tfds", "tfds", "original"]


def test_convert_takes_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds 1500 images in class folders, RESISC45 .* is made of 31500"):
        convert(TASK, "original", archive(tmp_path / "a.zip"), tmp_path / "root")
