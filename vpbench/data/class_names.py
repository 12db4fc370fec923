"""Names that end up in rows, tables and file names: checked and normalised where they come in."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from vpbench.core.errors import DataError
from vpbench.data.flaws import Flaw

LARGEST = 2**63 - 1  # of a label


def integer_labels(values: Sequence[int], file: object) -> NDArray[np.int64]:
    """Labels of the rows of a file.

    Raises:
        DataError: for one that 64 bits with a sign do not hold, such as a missing value written as the largest unsigned number.
    """
    for row, value in enumerate(values):
        if value > LARGEST:
            raise DataError(f"{file}: row {row} has label {value}, which is larger than {LARGEST}; number the classes from 0.")
    return np.array(values, np.int64)


def printable(name: str) -> str:
    """A name for messages; bytes that are no UTF-8 as escapes."""
    return name.encode("utf-8", "backslashreplace").decode()


def normalised(name: str, what: str) -> str:
    """A name in Unicode's composed form (NFC), without white space at its ends.

    macOS and Linux write the same accented name in two forms, and spaces at the end are seen by nobody.

    Args:
        what: is named, e.g. ``data/train: the class``.

    Raises:
        DataError: when the name is no valid Unicode (a file name that is no UTF-8), or nothing is left of it.
    """
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"{printable(what)} '{printable(name)}' has a name that is no valid UTF-8; rename it.") from error
    if not (plain := unicodedata.normalize("NFC", name).strip()):
        raise DataError(f"{printable(what)} '{name}' has a name of white space alone; rename it.")
    return plain


def merged_names(names: Iterable[str], what: str, notes: list[str]) -> dict[str, str]:
    """The normalised form of each name; names that differ in that alone become one, which is noted.

    Raises:
        DataError: as :func:`normalised`.
    """
    forms: dict[str, list[str]] = {}
    for name in sorted(set(names)):
        forms.setdefault(normalised(name, what), []).append(name)
    for plain, written in forms.items():
        if len(written) > 1:
            listed = ", ".join(map(ascii, written))
            said = f"One class, '{plain}', is written in {len(written)} ways (spaces or composed letters): {listed}."
            notes.append(Flaw(said))
    return {name: plain for plain, written in forms.items() for name in written}
