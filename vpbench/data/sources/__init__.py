"""Sources of images: a registry with one module per source, here or in the user's folders.

Each defines ``read(**options) -> RawData``.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vpbench.core.errors import DataError, UsageError, WrongCountsError, WrongSplitsError
from vpbench.core.hub import HubData, is_on_hub
from vpbench.core.names import unknown
from vpbench.core.plugins import Registry
from vpbench.core.user_folders import user_path
from vpbench.data.catalog import DatasetCard
from vpbench.data.places import data_root, dataset_folder, find_folder
from vpbench.data.protocols import split_sha256, with_validation
from vpbench.data.raw import RawData
from vpbench.data.sources._shards import find_shards
from vpbench.data.target import TARGETS, Target

Reader = Callable[..., RawData]

OF_FOLDERS: dict[Target, str] = {"class": "folder", "mask": "mask_folder"}
LAYOUTS: dict[Target, str] = {
    "class": "train/CLASS/*.jpg and test/CLASS/*.jpg", "mask": "images/{train,test}/*.jpg and masks/{train,test}/*.png"
}  # fmt: skip


def open_dataset(card: DatasetCard, root: str | Path | None = None) -> RawData:
    """Opens the data set of a card, with the splits that its numbers ask for; decodes no image.

    Args:
        root: the data root; by default ``VPBENCH_DATA`` or the user's data folder.

    Raises:
        UsageError: when the source of the card does not exist, or does not take the card's options.
        MissingDataError: when the data set's folder does not exist.
        WrongCountsError: when the number of classes or images differs from the card.
        WrongSplitsError: when the hash of the split list differs from the card.
        DataError: when the source cannot read the data.
    """
    raw = read_dataset(card, root)
    folder = find_folder(card, data_root(root))
    found = counts(raw)
    for field, expected in expected_counts(card, raw).items():
        if found[field] != expected:
            raise WrongCountsError(
                f"{folder or card.source}: {card.title} must have {field} = {expected}, here it is {found[field]}; "
                + (f"the copy is incomplete or another version. {card.how_to_get}" if folder else "correct its card.").rstrip()
            )
    if card.split_sha256 and folder and not raw.val_in_train and split_sha256(raw) != card.split_sha256:
        raise WrongSplitsError(
            f"{folder}: the counts of {card.title} are right, but not its split list (sha256 of file names and labels)."
        )
    return raw


def read_dataset(card: DatasetCard, root: str | Path | None = None) -> RawData:
    """Like :func:`open_dataset`, without comparing numbers and split list with the card."""
    if card.path:
        return open_path(card.path, target=card.target)
    place, reader = data_root(root), check_source(card)
    with _readable(place):
        folder = dataset_folder(card, place) if card.folders else None
    with _readable(folder or Path(card.source)):
        raw = reader(**({_place_of(reader): folder} if folder else {}), **card.options)
    if raw.has_masks != (card.target == "mask"):
        raise UsageError(f"the card of {card.title} says target = '{card.target}', and its source reads {_labels_of(raw)}.")
    if 0 < card.n_val < len(raw.splits["train"]) and not len(raw.splits["val"]) and not raw.val_in_train:
        raw = with_validation(raw, card.n_val)
    return raw


def check_source(card: DatasetCard) -> Reader:
    """The reader of a card that has a source, which takes what the card says.

    Raises:
        UsageError: for an unknown source, an option that it does not have, or one that it needs and the card lacks.
    """
    reader = _readers().get(card.source)
    known = inspect.signature(reader).parameters
    given = {*card.options, *([_place_of(reader)] if card.folders else [])}
    if strange := sorted(given - known.keys()):
        raise unknown(f"option of the data source {card.source}", strange[0], known, f"It is on the card of {card.title}.")
    needed = [name for name, parameter in known.items() if parameter.default is parameter.empty and name not in given]
    if needed:
        is_place = needed[0] == _place_of(reader)
        way = "folders, below the data root, or path in place of source" if is_place else f"options.{needed[0]}"
        raise UsageError(f"the card of {card.title} says source = '{card.source}' and not what it reads: add {way}.")
    return reader


def _place_of(reader: Reader) -> str:
    """The argument for the data set's folder; sources for the user's own data call it ``path``."""
    return "path" if "path" in inspect.signature(reader).parameters else "folder"


def counts(raw: RawData) -> dict[str, int]:
    """Number of classes and of images per split, by the field names of a card."""
    return {"classes": len(raw.class_names), **{f"n_{name}": len(split) for name, split in raw.splits.items()}}


def expected_counts(card: DatasetCard, raw: RawData) -> dict[str, int]:
    """What :func:`counts` should find, by the card; where train and validation images are not distinguished, both in train."""
    wanted = {field: int(getattr(card, field)) for field in ("classes", "n_train", "n_val", "n_test")}
    return {**wanted, "n_train": card.n_train + card.n_val, "n_val": 0} if raw.val_in_train else wanted


def _labels_of(raw: RawData) -> str:
    return TARGETS["mask" if raw.has_masks else "class"]


def pinned(path: str) -> str:
    """A data set's path with the commit that it stands for now, where it is one of the Hugging Face hub; another one as it is.

    Raises:
        DataError: when there is no such data set, or the hub cannot be reached.
    """
    if not is_on_hub(path) or HubData.parse(path).is_pinned:
        return path
    _readers().get("hf")  # which says what to install where datasets is missing
    from vpbench.data.sources.hf import pinned_now

    return pinned_now(path)


def open_path(
    path: str | Path, columns: Mapping[str, str] | None = None, target: Target = "class", skip_unreadable: bool = False
) -> RawData:
    """A user's own data: a folder of images, a parquet file, a folder of parquet shards, or a data set of the Hugging Face hub.

    See ``sources/folder.py``, ``sources/mask_folder.py``, ``sources/parquet.py`` and ``sources/hf.py``.

    Args:
        columns: of parquet files, by ``image``, ``label`` or ``mask``, and ``split``; by default the usual names.
        target: what images are labelled with.
        skip_unreadable: whether images that cannot be decoded are left out, and counted in ``RawData.unreadable``.

    Raises:
        DataError: in one line: the file, the value and how to fix it.
    """
    if is_on_hub(path):
        with _readable(Path(path)):
            return _readers().get("hf")(path=str(path), columns=columns, target=target, skip_unreadable=skip_unreadable)
    place = user_path(path)
    with _readable(place):
        if not place.exists():
            way = _several(str(path)) or f"give a folder with {LAYOUTS[target]}, or a .parquet file"
            raise DataError(f"{place} does not exist; {way}.")
        if place.is_file() or find_shards(place):
            return _readers().get("parquet")(path=place, columns=columns, target=target, skip_unreadable=skip_unreadable)
        if columns:
            raise DataError(f"{place} is a folder of images, which has no columns; leave out --columns.")
        return _readers().get(OF_FOLDERS[target])(path=place, skip_unreadable=skip_unreadable)


def _several(given: str) -> str:
    """What to say of a path that is several with commas between them; empty for another one."""
    parts = [part.strip() for part in given.split(",")]
    there = len(parts) > 1 and all(part and user_path(part).exists() for part in parts)
    return f"name each data set by itself: {' '.join(f'--data {part}' for part in parts)}" if there else ""


@contextmanager
def _readable(place: Path) -> Iterator[None]:
    """Converts OSError to DataError with the file's name."""
    try:
        yield
    except PermissionError as error:
        raise DataError(f"{error.filename or place} may not be read (permission denied); change its permissions.") from error
    except FileNotFoundError as error:
        raise DataError(f"{error.filename or place} is missing.") from error
    except OSError as error:
        raise DataError(f"{error.filename or place} cannot be read ({error.strerror or error}).") from error


def _readers() -> Registry[Reader]:
    return Registry("data source", __name__, _pick, folder="sources")


def _pick(name: str, module: Any) -> Reader:
    read = getattr(module, "read", None)
    if not callable(read):
        raise UsageError(f"data source '{name}': {module.__file__} must define read(**options).")
    return read  # type: ignore[no-any-return]
