"""Writes the layout that :mod:`vpbench.data.sources.vtab` reads."""

from __future__ import annotations

import errno
import io
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vpbench.core.errors import DataError
from vpbench.core.version import __version__
from vpbench.data.cache import OnProgress
from vpbench.data.catalog import DatasetCard
from vpbench.data.sources.vtab import BOTH, LISTS, PROVENANCE

SCRATCH = ".converting-"


@dataclass(frozen=True)
class Example:
    """One image of a split (train, val or test), encoded, with its class number. ``origin`` names it in messages."""

    split: str
    content: bytes
    suffix: str
    label: int
    origin: str


def png(pixels: NDArray[np.uint8]) -> bytes:
    """Pixels, uint8 (height, width) or (height, width, 1 or 3), as a PNG file (lossless)."""
    stream = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels).save(stream, "png")
    return stream.getvalue()


def refuse_existing(target: Path, force: bool) -> None:
    """
    Raises:
        DataError: when the folder to be written is there, unless it may be replaced.
    """
    if target.exists() and not force:
        raise DataError(f"{target} exists already; remove it, or ask for it to be replaced with --force.")


def write_layout(
    target: Path,
    examples: Iterable[Example],
    card: DatasetCard,
    provenance: Mapping[str, Any],
    *,
    force: bool = False,
    on_progress: OnProgress | None = None,
) -> Path:
    """Writes a task's images and lists to a temporary folder and renames it when it is complete.

    Images are numbered in the order in which they come: ``images/test/000000.png``. ``train800val200.txt`` names the files of the
    other two lists.

    Args:
        target: the task's folder. An existing one is replaced if ``force``, else an error.
        examples: images in any order of splits.
        card: expected number of images per split and of classes.
        provenance: source of the images; written to ``provenance.json``. Its ``note`` is shown whenever the data is opened.
        on_progress: called with (images written, total).

    Returns:
        ``target``.

    Raises:
        DataError: for a label out of range, counts that differ from the card, a folder that exists or cannot be written.
    """
    refuse_existing(target, force)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=target.parent, prefix=SCRATCH) as scratch:
            new = Path(scratch, "new")
            _write(new, examples, card, provenance, on_progress)
            refuse_existing(target, force)  # another process may have been faster
            _swap(new, target, Path(scratch, "old"))
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        problem = "the disk is full" if full else (error.strerror or str(error))
        raise DataError(f"cannot write {target} ({problem}); give another place with --data-root or VPBENCH_DATA.") from error
    return target


def _write(
    new: Path, examples: Iterable[Example], card: DatasetCard, provenance: Mapping[str, Any], on_progress: OnProgress | None
) -> None:
    wanted = {"train": card.n_train, "val": card.n_val, "test": card.n_test}
    lines: dict[str, list[str]] = {split: [] for split in wanted}
    for split in wanted:
        (new / "images" / _folder(split)).mkdir(parents=True)
    for done, example in enumerate(examples, start=1):
        if not 0 <= example.label < card.classes:
            raise DataError(
                f"{example.origin} has label {example.label}; {card.title} has classes 0 to {card.classes - 1}. "
                "This is another version of the data."
            )
        own = lines[example.split]
        path = f"images/{_folder(example.split)}/{len(own):06d}{example.suffix}"
        (new / path).write_bytes(example.content)
        own.append(f"{path} {example.label}\n")
        if on_progress:
            on_progress(done, sum(wanted.values()))
    for split, count in wanted.items():
        if len(lines[split]) != count:
            raise DataError(f"the source gives {len(lines[split])} {split} images, {card.title} has {count}.")
    texts = {file: "".join(lines[split]) for split, file in LISTS.items()}
    texts[BOTH] = texts[LISTS["train"]] + texts[LISTS["val"]]
    texts[PROVENANCE] = json.dumps({"vpbench": __version__, **provenance}, indent=1) + "\n"
    for file, text in texts.items():
        (new / file).write_text(text, encoding="utf-8")
    # One sync for all images, so that a power failure cannot leave a folder with missing content.
    os.sync()


def _swap(new: Path, target: Path, aside: Path) -> None:
    """Renames ``new`` to ``target``; the old one is moved aside first, and restored on errors."""
    replaced = target.exists()
    if replaced:
        target.replace(aside)
    try:
        new.replace(target)
    except OSError:
        if replaced:
            aside.replace(target)
        raise


def _folder(split: str) -> str:
    return LISTS[split].removesuffix(".txt")
