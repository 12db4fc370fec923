"""Data sets of the Hugging Face hub as they lie on a disk: folders of parquet shards."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_folder_layouts import encoded, fill

from vpbench.core.errors import DataError, UsageError
from vpbench.data.sources import open_path
from vpbench.data.sources._columns import choose_columns
from vpbench.planning.plan import make_plan
from vpbench.spec.request import Request
from vpbench.spec.run_spec import RunSpec
from vpbench.store.store import Store

FINE, COARSE = ["apple", "bear", "cup"], ["food", "animal"]


def write(file: Path, labels: list[int], names: list[str] | None = None, **columns: Any) -> None:
    """A shard with the columns of CIFAR-100."""
    seed = zlib.crc32(file.name.encode())
    content = pa.table(
        {
            "img": [{"bytes": encoded(seed + number), "path": None} for number in range(len(labels))],
            "fine_label": labels,
            "coarse_label": [label % 2 for label in labels],
            **columns,
        }
    )
    features = {
        "img": {"_type": "Image"},
        "fine_label": {"names": names or FINE, "_type": "ClassLabel"},
        "coarse_label": {"names": COARSE, "_type": "ClassLabel"},
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(content.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})}), file)


LAYOUTS = {
    "of the hub": "data/{split}-{number:05d}-of-{count:05d}.parquet",
    "with hashes": "{split}-{number:05d}-of-{count:05d}-0123456789abcdef.parquet",
    "converted": "cifar100/{split}/{number:04d}.parquet",
    "plain": "{split}.parquet",
}


def shards(root: Path, layout: str = LAYOUTS["of the hub"]) -> Path:
    for split, count in (("train", 2), ("test", 1)):
        for number in range(1 if layout == LAYOUTS["plain"] else count):
            write(root / layout.format(split=split, number=number, count=count), [0, 1, 2] * (4 if split == "train" else 1))
    return root


@pytest.mark.parametrize("layout", LAYOUTS)
def test_shards_are_read_with_their_splits(tmp_path: Path, layout: str) -> None:
    raw = open_path(shards(tmp_path, LAYOUTS[layout]))
    assert raw.class_names == ("apple", "bear", "cup")
    train = 12 if layout == "plain" else 24
    assert len(raw.splits["train"]) + len(raw.splits["val"]) == train
    assert raw.splits["test"].labels.tolist() == [0, 1, 2]
    assert raw.splits["test"].image(1).size == (6, 6)
    assert raw.note.startswith(
        "Columns: image = img, label = fine_label; other labels: coarse_label; choose with --columns. No validation split"
    )


def test_rows_are_named_by_their_file(tmp_path: Path) -> None:
    raw = open_path(shards(tmp_path))
    assert raw.splits["test"].name(2) == f"row 2 of {tmp_path / 'data' / 'test-00000-of-00001.parquet'}"
    assert raw.splits["train"].name(len(raw.splits["train"]) - 1).endswith("train-00001-of-00002.parquet")


def test_columns_can_be_chosen(tmp_path: Path) -> None:
    raw = open_path(shards(tmp_path), {"label": "coarse_label"})
    assert raw.class_names == ("food", "animal")
    assert raw.splits["test"].labels.tolist() == [0, 1, 0]
    with pytest.raises(DataError, match=r"has no column 'lable' \(it has img, fine_label, coarse_label\); correct --columns"):
        open_path(tmp_path, {"label": "lable"})
    with pytest.raises(DataError, match=r"column 'coarse_label' is int64; it must be bytes"):
        open_path(tmp_path, {"image": "coarse_label"})
    with pytest.raises(DataError, match=r"image = img, label = img\); choose another with --columns"):
        open_path(tmp_path, {"label": "img"})


def test_columns_reach_the_runs(tmp_path: Path) -> None:
    def planned(**more: Any) -> RunSpec:
        return make_plan(Request(methods=["linear"], precision="fp32", **more), Store(tmp_path / "results")).runs[0].spec

    data = str(shards(tmp_path / "cifar"))
    coarse = planned(data=data, columns="label=coarse_label")
    assert coarse.data.columns == {"label": "coarse_label"}
    assert coarse.run_id != planned(data=data).run_id
    assert RunSpec.model_validate(coarse.identity()).run_id == coarse.run_id
    assert "columns" not in planned(data=data).identity()["data"]
    for same in ("label=fine_label", "image=img", "image=img,label=fine_label"):  # what is read without --columns, too
        assert planned(data=data, columns=same).run_id == planned(data=data).run_id
    assert planned(data=data, columns="image=img,label=coarse_label").run_id == coarse.run_id
    with pytest.raises(UsageError, match="--columns goes with --data"):
        planned(suite="mini", columns="label=x")
    for odd in ("label", "lable=x", "label=x,label=y", "label="):
        with pytest.raises(UsageError, match=r"--columns .*write image=NAME,label=NAME,split=NAME"):
            Request(columns=odd)


def test_columns_that_are_ambiguous_otherwise_stay(tmp_path: Path) -> None:
    data = pa.schema([("left", pa.binary()), ("right", pa.binary()), ("label", pa.int64())])
    given = {"image": "left", "label": "label"}
    assert choose_columns(data, given, "x.parquet", with_split=False).needed == {"image": "left"}


def test_one_file_with_other_names(tmp_path: Path) -> None:
    write(tmp_path / "own.parquet", [0, 1, 2] * 4, part=["train"] * 9 + ["test"] * 3)
    with pytest.raises(DataError, match=r"has no column 'split' .*or name it with --columns split=NAME"):
        open_path(tmp_path / "own.parquet")
    raw = open_path(tmp_path / "own.parquet", {"split": "part"})
    assert raw.splits["test"].labels.tolist() == [0, 1, 2]


def test_other_splits_are_counted(tmp_path: Path) -> None:
    write(shards(tmp_path) / "data" / "extra-00000-of-00001.parquet", [0] * 7)
    assert "Ignored, as their names say no split: extra-00000-of-00001.parquet (7 rows)." in open_path(tmp_path).note


def test_missing_shard(tmp_path: Path) -> None:
    (shards(tmp_path) / "data" / "train-00000-of-00002.parquet").unlink()
    with pytest.raises(DataError, match=r"train-00000-of-00002\.parquet is missing; the copy of the data set is incomplete"):
        open_path(tmp_path)


def test_shards_that_do_not_belong_together(tmp_path: Path) -> None:
    write(shards(tmp_path) / "data" / "test-00000-of-00001.parquet", [0, 1, 2], names=["x", "y", "z"])
    with pytest.raises(DataError, match=r"test-00000-of-00001\.parquet has other class names than .*train-00000"):
        open_path(tmp_path)


def test_several_configurations(tmp_path: Path) -> None:
    for name in ("full", "small"):
        shards(tmp_path, f"{name}/{{split}}-{{number:05d}}-of-{{count:05d}}.parquet")
    with pytest.raises(DataError, match=r"several sets of parquet files \('full', 'small'\); give one of these folders"):
        open_path(tmp_path)
    assert len(open_path(tmp_path / "small").splits["test"]) == 3


def test_the_digest_is_that_of_one_file(tmp_path: Path) -> None:
    """The same images and labels are the same data, however they are stored."""
    rows = [(0, "train"), (1, "train"), (2, "train")] * 3 + [(0, "test"), (1, "test"), (2, "test")]
    images = [{"bytes": encoded(number)} for number in range(len(rows))]
    table = pa.table({"image": images, "label": [label for label, _ in rows], "split": [split for _, split in rows]})
    pq.write_table(table, tmp_path / "all.parquet")
    (tmp_path / "shards").mkdir()
    for split in ("train", "test"):
        pq.write_table(
            table.filter(np.array([row[1] == split for row in rows])).drop_columns(["split"]),
            tmp_path / f"shards/{split}.parquet",
        )
    assert open_path(tmp_path / "shards").digest == open_path(tmp_path / "all.parquet").digest


def test_images_win_over_a_table_beside_them(tmp_path: Path) -> None:
    fill(tmp_path, "cat", "dog", count=10)
    pq.write_table(pa.table({"file_name": ["cat/0.png"]}), tmp_path / "metadata.parquet")
    raw = open_path(tmp_path)
    assert raw.class_names == ("cat", "dog")
    assert "(.parquet 1)" in raw.note
    with pytest.raises(DataError, match="is a folder of images, which has no columns; leave out --columns"):
        open_path(tmp_path, {"label": "x"})
