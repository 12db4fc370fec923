"""Names of classes and data sets: what cannot be written is refused when planning, and what looks the same is the same."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_user_data import ROWS, fill, table

from vpbench.analysis.load import _own_data
from vpbench.core.errors import DataError
from vpbench.data.raw import PixelSplit, RawData
from vpbench.data.sources import open_path
from vpbench.planning.plan import make_plan
from vpbench.spec.request import Request
from vpbench.store.store import Store

NFC, NFD = unicodedata.normalize("NFC", "Käfer"), unicodedata.normalize("NFD", "Käfer")


def counts(raw: RawData) -> dict[str, list[int]]:
    return {name: np.bincount(split.labels, minlength=len(raw.class_names)).tolist() for name, split in raw.splits.items()}


@pytest.mark.skipif(os.name == "nt", reason="file names are Unicode there")
@pytest.mark.parametrize("place", ["class", "data set"])
def test_folder_that_is_no_utf8(place: str, tmp_path: Path) -> None:
    """Refused before anything is trained: its row could not be written."""
    strange = os.fsdecode(b"caf\xe9")
    root = tmp_path / (strange if place == "data set" else "pets")
    fill(root, {f"{split}/{name}": 2 for split in ("train", "val", "test") for name in ("a", "b")})
    if place == "class":
        for split in ("train", "val", "test"):
            (root / split / "b").rename(root / split / strange)
    with pytest.raises(DataError, match=r"'caf\\udce9' has a name that is no valid UTF-8; rename it") as caught:
        make_plan(Request.from_keywords(data=root, methods=("linear",), device="cpu"), Store(tmp_path / "runs"))
    str(caught.value).encode()
    assert not (tmp_path / "runs").exists()


def test_spaces_at_the_ends_make_no_class(tmp_path: Path) -> None:
    fill(tmp_path, {"train/cat": 2, "train/cat ": 3, "train/dog": 2, "val/cat ": 1, "test/ cat": 1, "test/dog": 1})
    raw = open_path(tmp_path)
    assert raw.class_names == ("cat", "dog")
    assert counts(raw) == {"train": [5, 2], "val": [1, 0], "test": [1, 1]}
    assert "One class, 'cat', is written in 3 ways (spaces or composed letters): ' cat', 'cat', 'cat '." in raw.note


def test_composed_and_decomposed_letters_meet(tmp_path: Path) -> None:
    """A folder that was made on macOS beside one that was made on Linux."""
    assert NFC != NFD
    fill(tmp_path, {f"train/{NFD}": 2, "train/dog": 2, f"val/{NFC}": 1, f"test/{NFC}": 1, "test/dog": 1})
    raw = open_path(tmp_path)
    assert raw.class_names == (NFC, "dog")
    assert counts(raw)["test"] == [1, 1]
    assert f"'{NFC}', is written in 2 ways" in raw.note and r"'Ka\u0308fer'" in raw.note


def test_names_that_are_written_one_way_get_no_note(tmp_path: Path) -> None:
    raw = open_path(fill(tmp_path, {f"{split}/{name}": 1 for split in ("train", "val", "test") for name in (NFC, "dog")}))
    assert raw.note == ""


def test_name_of_white_space_alone(tmp_path: Path) -> None:
    fill(tmp_path, {"train/ ": 2, "train/dog": 2, "test/ ": 1, "test/dog": 1})
    with pytest.raises(DataError, match="' ' has a name of white space alone; rename it"):
        open_path(tmp_path)


def test_text_labels_of_a_file(tmp_path: Path) -> None:
    rows = [(name, split) for split in ("train", "val", "test") for name in ("cat ", "dog", NFD)]
    content = table(rows)
    content = content.set_column(1, "label", pa.array([label if split == "train" else label.strip() for label, split in rows]))
    pq.write_table(content, tmp_path / "own.parquet")
    raw = open_path(tmp_path / "own.parquet")
    assert set(raw.class_names) == {NFC, "cat", "dog"}
    assert counts(raw)["test"] == [1, 1, 1]


@pytest.mark.parametrize("label", [2**63, 2**64 - 1])
def test_labels_beyond_64_bits_with_a_sign(label: int, tmp_path: Path) -> None:
    """As a missing value looks that was written as the largest unsigned number."""
    content = table(ROWS)
    labels = pa.array([*content["label"].to_pylist()[:-1], label], pa.uint64())
    pq.write_table(content.set_column(1, "label", labels), tmp_path / "own.parquet")
    with pytest.raises(DataError, match=rf"own\.parquet: row 14 has label {label}, which is larger than {2**63 - 1}"):
        open_path(tmp_path / "own.parquet")


def test_small_unsigned_labels_are_labels(tmp_path: Path) -> None:
    content = table(ROWS)
    pq.write_table(content.set_column(1, "label", content["label"].cast(pa.uint64())), tmp_path / "own.parquet")
    assert open_path(tmp_path / "own.parquet").class_names == ("3", "7", "8")


def test_names_of_any_source_are_checked() -> None:
    """Class names of a file's metadata, say: JSON holds half of a pair of surrogates."""
    one = PixelSplit(np.zeros((1, 2, 2, 3), np.uint8), np.zeros(1, np.int64), "x")
    with pytest.raises(DataError, match=r"the class 'a\\ud800' has a name that is no valid UTF-8"):
        RawData.of(["a\ud800"], {"train": one, "val": one, "test": one})


def test_name_of_a_data_set_is_normalised_and_found_again(tmp_path: Path) -> None:
    root = fill(tmp_path / NFD, {f"{split}/{name}": 2 for split in ("train", "val", "test") for name in ("a", "b")})
    plan = make_plan(Request.from_keywords(data=root, methods=("linear",), image_size=40, device="cpu"), Store(tmp_path / "runs"))
    assert list(plan.data) == [NFC]
    assert _own_data(NFC, tmp_path) == root
