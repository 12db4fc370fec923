"""Predictions as CSV, JSON or parquet: one row per image and rank, or one object per image."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from vpbench.core.errors import StoreError, UsageError
from vpbench.core.escaping import as_json, for_spreadsheet
from vpbench.core.files import write_atomically
from vpbench.deploy.prediction import Prediction

TYPES = {
    "image": pa.string(), "rank": pa.int64(), "label": pa.int64(), "class": pa.string(), "probability": pa.float32(),
    "share": pa.float32(),
}  # fmt: skip


def ranked_rows(predictions: Sequence[Prediction], class_names: Sequence[str], top: int) -> list[dict[str, Any]]:
    """The ``top`` most probable classes of every image: ``image``, ``rank`` from 1, ``label`` (the class id), ``class``, and
    ``probability`` in 0 ... 1; of masks the classes of most pixels, with ``share`` in its place."""
    return [
        {
            "image": each.image.name, "rank": rank, "label": label, "class": class_names[label],
            "probability" if each.mask is None else "share": round(value, 6),
        }
        for each in predictions
        for rank, (label, value) in enumerate(each.top(top), start=1)
    ]  # fmt: skip


def as_csv(rows: Sequence[dict[str, Any]]) -> str:
    """One line per image and rank, behind the names of the columns."""
    text = io.StringIO()
    table = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    table.writeheader()
    table.writerows({**row, "image": for_spreadsheet(row["image"]), "class": for_spreadsheet(row["class"])} for row in rows)
    return text.getvalue()


def as_objects(rows: Sequence[dict[str, Any]]) -> str:
    """A JSON list with an object per image: ``image`` and ``predictions``, best first."""
    images: dict[int, dict[str, Any]] = {}
    number = -1
    for row in rows:
        number += row["rank"] == 1
        image = images.setdefault(number, {"image": row["image"], "predictions": []})
        image["predictions"].append({name: value for name, value in row.items() if name not in ("image", "rank")})
    return as_json(list(images.values())) + "\n"


def _parquet(rows: Sequence[dict[str, Any]], path: Path) -> None:
    schema = pa.schema([(name, TYPES[name]) for name in rows[0]])
    pq.write_table(pa.Table.from_pylist(list(rows), schema=schema), path)


def _text(make: Callable[[Sequence[dict[str, Any]]], str]) -> Callable[[Sequence[dict[str, Any]], Path], Any]:
    return lambda rows, path: path.write_text(make(rows), encoding="utf-8", newline="\n")


TEXTS: dict[str, Callable[[Sequence[dict[str, Any]]], str]] = {"csv": as_csv, "json": as_objects}
"""The formats that go to stdout, beside the table."""

_WRITERS = {"parquet": _parquet, **{name: _text(make) for name, make in TEXTS.items()}}


def check_out(path: Path) -> None:
    """
    Raises:
        UsageError: for a file whose ending says no format.
    """
    if path.suffix.removeprefix(".") not in _WRITERS:
        raise UsageError(f"--out {path}: give a name that ends with {', '.join(f'.{name}' for name in _WRITERS)}.")


def write_predictions(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Write :func:`ranked_rows` to a file, atomically, in the format of its ending.

    Raises:
        UsageError: for another ending than .parquet, .csv or .json.
        StoreError: when it cannot be written.
    """
    check_out(path)
    try:
        write_atomically(path, lambda partial: _WRITERS[path.suffix.removeprefix(".")](rows, partial))
    except OSError as error:
        raise StoreError(f"{path} cannot be written: {error.strerror or error}. Choose another --out.") from error
