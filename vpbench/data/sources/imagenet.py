"""ImageNet-1k: 1,000 classes called by their WordNet ids, and the official validation images as test images."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from vpbench.core.errors import DataError
from vpbench.data.raw import RawData, RawSplit
from vpbench.data.sources._listed import FileSplit, nested, read_lines
from vpbench.data.sources._wordnet import WORDNET_ID, class_folders, no_images, split_of

KAGGLE = "ILSVRC/Data/CLS-LOC"
SOLUTION = "LOC_val_solution.csv"  # of Kaggle's archive: image, class and boxes


def read(folder: Path) -> RawData:
    """Training images in ``train/n01440764/``; test images in ``val/n01440764/``, as torchvision and CoOp have them, or all in
    ``val/`` with Kaggle's ``LOC_val_solution.csv``. The source has no validation images.

    Args:
        folder: with ``train`` and ``val``, or with ``images`` or Kaggle's folders around them.

    Raises:
        DataError: for folders that are missing or inconsistent.
    """
    base = nested(Path(folder), "images", KAGGLE)
    training = class_folders(base / "train")
    classes = list(training)
    solution, val = Path(folder) / SOLUTION, base / "val"
    is_flat = solution.is_file() and not (val / classes[0]).is_dir()
    test = _solved(base, solution, classes) if is_flat else split_of(base, class_folders(val), classes)
    splits: dict[str, RawSplit] = {"train": split_of(base, training, classes), "val": no_images(base), "test": test}
    return RawData.of(classes, splits)


def _solved(base: Path, file: Path, classes: list[str]) -> FileSplit:
    """The images in ``val/`` itself, by a list of ``IMAGE,CLASS BOX ...``."""
    ids = {name: number for number, name in enumerate(classes)}
    images: list[tuple[str, int]] = []
    for line in read_lines(file)[1:]:
        image, _, words = line.partition(",")
        name = words.split(" ")[0]
        if not WORDNET_ID.fullmatch(name) or name not in ids:
            raise DataError(f"{file}: image {image} has class '{name}', of which training has no folder; get the list again.")
        images.append((f"val/{image}.JPEG", ids[name]))
    images.sort()
    sizes = []
    for path, _ in images:
        try:
            sizes.append((base / path).stat().st_size)
        except FileNotFoundError:
            raise DataError(f"{base / path} is missing; the copy of the data set is incomplete.") from None
    return FileSplit(base, [path for path, _ in images], sizes, np.array([label for _, label in images], np.int64))
