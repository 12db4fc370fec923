"""Where images come from: one module per source, found by its file name. Each has ``read(**options) -> RawData``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from vpbench.core.errors import DataError, UsageError
from vpbench.core.registry import Registry
from vpbench.data.catalog import DatasetCard
from vpbench.data.raw import RawData

Reader = Callable[..., RawData]


def open_dataset(card: DatasetCard) -> RawData:
    """The data set that a card describes.

    Raises:
        UsageError: when the card names a source that does not exist.
        DataError: when the source cannot read its files, or the card's numbers are not what it found.
    """
    raw = _readers().get(card.source)(**card.options)
    found = {"classes": len(raw.class_names), **{f"n_{name}": len(split) for name, split in raw.splits.items()}}
    for field, value in found.items():
        if value != getattr(card, field):
            raise DataError(
                f"the card of '{card.title}' says {field} = {getattr(card, field)}, its source has {value}; correct one."
            )
    return raw


def open_path(path: str | Path) -> RawData:
    """A user's own data: a folder of images or a parquet file; see ``sources/folder.py`` and ``sources/parquet.py``.

    Raises:
        DataError: with one line that names the file, the value and the way out.
    """
    place = Path(path).expanduser()
    try:
        if not place.exists():
            raise DataError(
                f"{place} does not exist; give a folder with train/CLASS/*.jpg and test/CLASS/*.jpg, or a .parquet file."
            )
        return _readers().get("folder" if place.is_dir() else "parquet")(path=place)
    except PermissionError as error:
        raise DataError(f"{error.filename or place} may not be read (permission denied); change its permissions.") from error
    except OSError as error:
        raise DataError(f"{error.filename or place} cannot be read ({error.strerror or error}).") from error


def _readers() -> Registry[Reader]:
    return Registry("data source", __name__, _pick)


def _pick(name: str, module: Any) -> Reader:
    read = getattr(module, "read", None)
    if not callable(read):
        raise UsageError(f"data source '{name}': {module.__file__} must define read(**options).")
    return read  # type: ignore[no-any-return]
