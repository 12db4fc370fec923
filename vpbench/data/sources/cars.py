"""Stanford Cars: 196 models, with VPT's JSON lists or the official .mat annotations."""

from __future__ import annotations

from pathlib import Path

from vpbench.core.errors import DataError
from vpbench.data.raw import RawData
from vpbench.data.sources._json_lists import json_lists, names_in_order
from vpbench.data.sources._listed import Key, from_lists, nested
from vpbench.data.sources._mat import read_mat, texts, whole_numbers


def read(folder: Path) -> RawData:
    """The splits of ``train.json``, ``val.json`` and ``test.json`` if they exist, else the official train and test.

    The official layout is ``devkit/cars_train_annos.mat``, ``devkit/cars_meta.mat``, ``cars_test_annos_withlabels.mat``
    (in ``devkit/`` or beside it, as torchvision has it), ``cars_train/`` and ``cars_test/``. Labels are 1 to 196.

    Raises:
        DataError: for files that are missing or inconsistent.
    """
    base = nested(Path(folder), "stanford_cars")
    meta = base / "devkit" / "cars_meta.mat"
    lists = json_lists(Path(folder), base, ("",))
    if lists is None:
        names = _names(meta)
        tests = [place / "cars_test_annos_withlabels.mat" for place in (base / "devkit", base)]
        lists = {
            "train": _members(base / "devkit" / "cars_train_annos.mat", "cars_train", len(names)),
            "test": _members(next((file for file in tests if file.is_file()), tests[0]), "cars_test", len(names)),
        }
    else:
        names = _names(meta) if meta.is_file() else []
    return from_lists(base, lists, names_in_order((key for _, key in lists["train"]), names))


def _names(file: Path) -> list[str]:
    return texts(read_mat(file, "class_names")[0], file)


def _members(file: Path, below: str, classes: int) -> list[tuple[str, Key]]:
    annotations = read_mat(file, "annotations")[0]
    for field in ("fname", "class"):
        if field not in (annotations.dtype.names or ()):
            raise DataError(f"{file}: annotations have no field '{field}'; take the file with labels.")
    labels = whole_numbers(annotations["class"], file)
    paths = [f"{below}/{name}" for name in texts(annotations["fname"], file)]
    for path, label in zip(paths, labels):
        if not 1 <= label <= classes:
            raise DataError(f"{file}: {path} has label {label}; it must be 1 to {classes}.")
    return list(zip(paths, labels))
