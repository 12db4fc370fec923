"""CIFAR-10 and CIFAR-100, python version. Unpickling is restricted to arrays and plain containers."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vpbench.core.errors import DataError
from vpbench.data.raw import Labels, PartialSplit, RawData
from vpbench.data.sources._listed import from_arrays, nested

FILES = {
    10: {"folder": "cifar-10-batches-py", "meta": "batches.meta", "names": "label_names", "labels": "labels"},
    100: {"folder": "cifar-100-python", "meta": "meta", "names": "fine_label_names", "labels": "fine_labels"},
}
TRAIN = {10: [f"data_batch_{number}" for number in range(1, 6)], 100: ["train"]}
TEST = {10: ["test_batch"], 100: ["test"]}


def read(folder: Path, classes: int = 10, imbalance: int | None = None) -> RawData:
    """The official train and test images. Kept in memory as uint8, 3 KB per image.

    Args:
        folder: the unpacked archive, or its parent.
        classes: 10, or 100 (fine labels).
        imbalance: of the long-tailed version, see :func:`long_tailed`: training images of the first class by those of the last.

    Raises:
        DataError: for files that are missing, damaged, invalid or unsafe to unpickle.
    """
    files = FILES[classes]
    base = nested(Path(folder), files["folder"])
    names = _texts(safe_unpickle(base / files["meta"]), files["names"], base / files["meta"])
    parts = {
        split: _joined(base, batches, files["labels"]) for split, batches in (("train", TRAIN[classes]), ("test", TEST[classes]))
    }
    raw = from_arrays(base, parts, names)
    if imbalance is None:
        return raw
    train = raw.splits["train"]
    return raw.with_splits(train=PartialSplit([train], long_tailed(train.labels, imbalance)))


def long_tailed(labels: Labels, imbalance: int) -> NDArray[np.int64]:
    """Places of the images of an imbalanced version: of class i of C, n / imbalance^(i / (C - 1)), n being those of one class.

    The images of kaidic/LDAM-DRW, imbalance_cifar.py (exponential, seed 0), which the literature on CIFAR-100-LT uses: classes in
    order, each shuffled, its first ones taken.
    """
    random = np.random.RandomState(0)
    classes = np.unique(labels)
    most = len(labels) / len(classes)
    chosen = []
    for place in range(len(classes)):
        own = np.flatnonzero(labels == classes[place])
        random.shuffle(own)
        chosen.append(own[: max(1, int(most * (1 / imbalance) ** (place / (len(classes) - 1.0))))])
    return np.concatenate(chosen)


def safe_unpickle(file: Path) -> dict[str, Any]:
    """The dictionary in a pickle of Python 2 or 3.

    Raises:
        DataError: when the file is missing, damaged, not a dictionary, or refers to a function or class other than those that
            rebuild numpy arrays. Such a reference is refused before anything is called.
    """
    try:
        with file.open("rb") as stream:
            content = _ArraysOnly(stream, file).load()
    except (DataError, FileNotFoundError, PermissionError):
        raise
    except Exception as error:  # a damaged pickle can raise anything
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{file} is not a complete pickle ({reason}); get the data set again.") from error
    if not isinstance(content, dict):
        raise DataError(f"{file} holds a {type(content).__name__}, not CIFAR's dictionary; get the data set again.")
    return content


class _ArraysOnly(pickle.Unpickler):
    """Rebuilds numbers, texts, lists, dictionaries and numpy arrays, and nothing else."""

    def __init__(self, stream: Any, file: Path) -> None:
        super().__init__(stream, encoding="latin1")
        self._file = file

    def find_class(self, module: str, name: str) -> Any:
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name == "_reconstruct":
            return _empty_array
        if (module, name) == ("numpy", "ndarray"):
            return np.ndarray
        if (module, name) == ("numpy", "dtype"):
            return np.dtype
        if (module, name) == ("_codecs", "encode"):  # how Python 3 writes bytes for Python 2
            return _latin1
        raise DataError(f"{self._file} asks for {module}.{name}, which CIFAR's files never do; it may be malicious: remove it.")


def _empty_array(kind: Any, shape: Any, dtype: Any) -> NDArray[Any]:
    """First step of unpickling an array; its content follows."""
    if kind is not np.ndarray or shape != (0,):
        raise ValueError("not a plain array")
    return np.ndarray((0,), "b")


def _latin1(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise ValueError(f"bytes written as {encoding}")
    return text.encode("latin1")


def _joined(base: Path, batches: list[str], key: str) -> tuple[NDArray[np.uint8], Labels, str]:
    read = [_batch(base / batch, key) for batch in batches]
    images = np.concatenate([images for images, _ in read])
    name = batches[0] if len(batches) == 1 else f"{batches[0]}-{batches[-1].rsplit('_', 1)[-1]}"
    return images.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), np.concatenate([labels for _, labels in read]), name


def _batch(file: Path, key: str) -> tuple[NDArray[np.uint8], Labels]:
    """Rows of 3,072 bytes (red, green, blue, each row by row), (n, 3072), and class ids, (n,)."""
    content = safe_unpickle(file)
    images, labels = content.get("data"), content.get(key)
    if not isinstance(images, np.ndarray) or images.dtype != np.uint8 or images.ndim != 2 or images.shape[1] != 3072:
        raise DataError(f"{file}: 'data' must be rows of 3,072 bytes; get the data set again.")
    if not isinstance(labels, list) or not all(type(label) is int for label in labels):
        raise DataError(f"{file}: '{key}' must be a list of whole numbers; get the data set again.")
    if len(labels) != len(images):
        raise DataError(f"{file} has {len(images)} images and {len(labels)} labels; get the data set again.")
    return images, np.array(labels, np.int64)


def _texts(content: dict[str, Any], key: str, file: Path) -> list[str]:
    names = content.get(key)
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise DataError(f"{file}: '{key}' must be a list of class names; get the data set again.")
    return names
