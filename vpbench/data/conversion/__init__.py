"""Converters: write data sets from TFDS or original files in the layout that the benchmark reads."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal

from vpbench.core.errors import DataError, UsageError
from vpbench.data.cache import OnProgress
from vpbench.data.catalog import dataset_card
from vpbench.data.conversion import dsprites, norb, resisc45, tfds
from vpbench.data.download import OnStep, UnavailableError, fetch
from vpbench.data.places import find_folder

Source = Literal["tfds", "original"]

ORIGINAL = (*dsprites.TASKS, *norb.TASKS, resisc45.TASK)
DOWNLOADS = {resisc45.TASK: resisc45.ARCHIVE}  # original files that need no login

# What has to be done by hand before TFDS can prepare a data set.
MANUAL = {
    "vtab.retinopathy": "by hand first: the images, with a Kaggle login, into TFDS's folder downloads/manual",
}


def convertible(source: Source) -> tuple[str, ...]:
    """Data sets that can be converted from ``source``."""
    return tuple(tfds.RULES) if source == "tfds" else ORIGINAL


def default_source(dataset: str) -> Source:
    """What a data set is converted from unless the user says otherwise."""
    return "original" if dataset in DOWNLOADS else "tfds"


def lacking(source: Source) -> str:
    """What has to be installed before data sets can be converted from a source, in a sentence; empty where nothing is missing."""
    return tfds.lacking() if source == "tfds" else ""


def fetch_original(dataset: str, root: Path, on_step: OnStep | None = None) -> Path | None:
    """The original file of a data set, fetched into ``downloads`` below the data root; None for one that is got by hand.

    Raises:
        DataError: when it cannot be fetched.
    """
    if dataset not in DOWNLOADS:
        return None
    target = root / "downloads" / DOWNLOADS[dataset].path
    if not target.is_file():
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            fetch(DOWNLOADS[dataset], target, on_step=on_step)
        except UnavailableError as error:
            raise type(error)(f"{error} Got by hand, it is converted with --from original --path {target.name}.") from error
        except OSError as error:
            raise DataError(f"{target.parent} cannot be made ({error.strerror or error}); choose another --data-root.") from error
        finally:
            with suppress(OSError):  # it is not empty
                target.parent.rmdir()
    return target


def in_order(datasets: Sequence[str]) -> list[str]:
    """Those whose files need a login or another step by hand last, and tasks on the same images one after the other."""
    names = {name: tfds.RULES[name].name if name in tfds.RULES else name for name in datasets}
    first = list(dict.fromkeys(names.values()))
    return sorted(datasets, key=lambda name: (name in MANUAL, first.index(names[name])))


def convert(
    dataset: str,
    source: Source,
    path: Path | None,
    root: Path,
    *,
    force: bool = False,
    on_progress: OnProgress | None = None,
) -> Path:
    """Writes ``dataset`` below the data root.

    Args:
        dataset: id of its card.
        source: ``tfds``, TensorFlow Datasets (needs ``vpbench[tfds]``); ``original``, the files as their authors publish them.
        path: TFDS's data folder (None: TFDS's own), or the original file or folder.
        root: the data root.
        force: whether to replace an existing folder.
        on_progress: called with (images written, total).

    Returns:
        The folder written.

    Raises:
        UsageError: for an id that does not exist or cannot be converted, or if TFDS is not installed.
        DataError: when the input is missing or damaged, or the target exists. No partial output is left.
    """
    card = dataset_card(dataset)
    if source not in ("tfds", "original"):
        raise UsageError(f"'{source}' is no source of a conversion; choose tfds or original.")
    if dataset not in convertible(source):
        other: Source = "original" if source == "tfds" else "tfds"
        hint = f"; it can be from {other}" if dataset in convertible(other) else ""
        if not hint and card.downloads:
            hint = f"; 'vpbench data get {dataset}' fetches it"
        raise UsageError(f"{dataset} cannot be converted from {source}{hint}. From {source}: {', '.join(convertible(source))}.")
    existing = find_folder(card, root)
    if existing and not force:
        raise DataError(f"{existing} holds {card.title} already; remove it, or ask for another copy with --force.")
    target = root / card.folders[0]
    if source == "tfds":
        return tfds.convert_tfds(dataset, card, target, path, force=force, on_progress=on_progress)
    if path is None:
        raise UsageError(f"give the original files of {card.title}: --path FILE or FOLDER.")
    if not path.exists():
        raise DataError(f"{path} does not exist; give the original files of {card.title}.")
    if dataset in dsprites.TASKS:
        return dsprites.convert_dsprites(dataset, card, target, path, force=force, on_progress=on_progress)
    if dataset == resisc45.TASK:
        return resisc45.convert_resisc45(dataset, card, target, path, force=force, on_progress=on_progress)
    return norb.convert_norb(dataset, card, target, path, force=force, on_progress=on_progress)
