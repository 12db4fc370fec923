"""CIFAR-10 and CIFAR-100, python version: pickles as Python 2 wrote them."""

from __future__ import annotations

import io
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np

from . import picture, put


class _Python2Pickler(pickle._Pickler):  # type: ignore[name-defined,misc]
    """Protocol 2, where texts and bytes are both Python 2's strings, and numpy's functions have their old names."""

    dispatch = dict(pickle._Pickler.dispatch)  # type: ignore[attr-defined]

    def save_string(self, value: str | bytes) -> None:
        data = value.encode("latin1") if isinstance(value, str) else value
        short = len(data) < 256
        self.write((b"U" + bytes([len(data)]) if short else b"T" + struct.pack("<i", len(data))) + data)
        self.memoize(value)

    dispatch[str] = dispatch[bytes] = save_string

    def save_global(self, value: Any, name: str | None = None) -> None:
        module = "numpy.core.multiarray" if value.__name__ == "_reconstruct" else value.__module__
        self.write(f"c{module}\n{value.__name__}\n".encode())
        self.memoize(value)


def pickled(content: dict[str, Any]) -> bytes:
    """A pickle as Python 2.7 would write it."""
    stream = io.BytesIO()
    _Python2Pickler(stream, 2).dump(content)
    return stream.getvalue()


def batch(split: str, labels: list[int], key: str, start: int = 0) -> dict[str, Any]:
    """What a file holds: rows of 3,072 bytes, (n, 3072), red first, and lists of labels and file names."""
    images = [picture(label, split, start + place, (32, 32)) for place, label in enumerate(labels)]
    rows = np.stack([image.transpose(2, 0, 1).ravel() for image in images])
    names = [f"{split}_s_{start + place:06d}.png" for place in range(len(labels))]
    made: dict[str, Any] = {"batch_label": f"{split} batch", "data": rows, key: labels, "filenames": names}
    return made if key == "labels" else {**made, "coarse_labels": [label // 2 for label in labels]}


def write10(folder: Path, per_batch: int = 1, test: int = 2) -> None:
    """CIFAR-10 with three classes: five training files of ``per_batch`` images a class."""
    for number in range(1, 6):
        made = batch("train", [0, 1, 2] * per_batch, "labels", number)
        put(folder / f"data_batch_{number}", pickled(made))
    put(folder / "test_batch", pickled(batch("test", [2, 1, 0] * test, "labels")))
    names = {"num_cases_per_batch": 3 * per_batch, "label_names": ["airplane", "automobile", "bird"], "num_vis": 3072}
    put(folder / "batches.meta", pickled(names))


def write100(folder: Path, train: int = 5, test: int = 2) -> None:
    """CIFAR-100 with three fine and two coarse classes."""
    put(folder / "train", pickled(batch("train", [0, 1, 2] * train, "fine_labels")))
    put(folder / "test", pickled(batch("test", [2, 1, 0] * test, "fine_labels")))
    names = {"fine_label_names": ["apple", "aquarium_fish", "baby"], "coarse_label_names": ["things", "beings"]}
    put(folder / "meta", pickled(names))
