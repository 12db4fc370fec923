"""Small sets of photographs, a parquet file each (``docs/data/photos-mini.md``), of which a fixed number of images is used."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from vpbench.core.errors import MissingDataError
from vpbench.data.protocols import SEED, with_all_for_training
from vpbench.data.raw import PartialSplit, RawData, RawSplit
from vpbench.data.sources import parquet
from vpbench.data.splitting import stratified_order


def read(folder: Path, file: str, training: int, testing: int) -> RawData:
    """The images of a file with a column of splits.

    Args:
        folder: of all the files.
        file: name of the file.
        training, testing: how many images are drawn of each split with a fixed seed, stratified by class; all where there are
            fewer. Validation images are taken from those of training later.

    Raises:
        MissingDataError: when there is no such file.
        DataError: for a file that cannot be read.
    """
    if not (folder / file).is_file():
        raise MissingDataError(f"{folder / file} is missing: docs/data/photos-mini.md says how to write it.")
    raw = parquet.read(folder / file)
    whole = with_all_for_training(raw)
    drawn = {"train": _drawn(whole.splits["train"], training), "test": _drawn(whole.splits["test"], testing)}
    return replace(whole.with_splits(**drawn), note="")


def _drawn(split: RawSplit, count: int) -> PartialSplit:
    return PartialSplit([split], np.sort(stratified_order(split.labels, SEED)[:count]))
