"""Matlab's .mat files, up to version 7."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.io import loadmat

from vpbench.core.errors import DataError


def read_mat(file: Path, *names: str) -> list[NDArray[Any]]:
    """The arrays called ``names``, with Matlab's shapes (at least two axes).

    Raises:
        DataError: when the file is missing, cannot be read, or lacks one of them.
    """
    if not file.is_file():
        raise DataError(f"{file} is missing; the copy of the data set is incomplete.")
    try:
        content = loadmat(file, variable_names=list(names))
    except Exception as error:  # a damaged file can raise anything
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{file} is not a readable .mat file ({reason}); get the data set again.") from error
    for name in names:
        if name not in content:
            raise DataError(f"{file} has no '{name}'; get the data set again.")
    return [content[name] for name in names]


def whole_numbers(array: NDArray[Any], file: Path) -> list[int]:
    """The numbers in an array, or in cells with one number each."""
    try:
        return [int(np.asarray(value).item()) for value in array.ravel()]
    except (TypeError, ValueError) as error:
        raise DataError(f"{file} has labels that are not integers; get the data set again.") from error


def texts(array: NDArray[Any], file: Path) -> list[str]:
    """The texts in an array of cells."""
    try:
        return [str(np.asarray(value).item()) for value in array.ravel()]
    except ValueError as error:
        raise DataError(f"{file} has names that are not text; get the data set again.") from error
