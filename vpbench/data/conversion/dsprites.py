"""dSprites' two tasks from its original file, github.com/google-deepmind/dsprites-dataset (Apache-2.0).

``dsprites_ndarray_co1sh3sc6or40x32y32_64x64.npz`` holds ``imgs``, uint8 of shape (737280, 64, 64) with values 0 and 1, and
``latents_classes``, integers of shape (737280, 6): color, shape, scale, orientation, x and y position.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vpbench.core.errors import DataError
from vpbench.data.cache import OnProgress
from vpbench.data.catalog import DatasetCard
from vpbench.data.conversion.draws import NOTE, SEED, drawn
from vpbench.data.conversion.labels import DSPRITES_STEPS, dsprites_bin
from vpbench.data.conversion.vtab_layout import Example, png, refuse_existing, write_layout

FILE = "dsprites_ndarray_co1sh3sc6or40x32y32_64x64.npz"
IMAGES = 737_280
SIDE = 64
COLUMNS = {"label_orientation": 3, "label_x_position": 4}
TASKS = {"vtab.dsprites-location": "label_x_position", "vtab.dsprites-orientation": "label_orientation"}


def convert_dsprites(
    card_id: str,
    card: DatasetCard,
    target: Path,
    path: Path,
    *,
    images: int = IMAGES,
    force: bool = False,
    on_progress: OnProgress | None = None,
) -> Path:
    """Writes a task's images and lists to ``target``.

    Args:
        path: the .npz file, or the folder with it.
        images: expected number.

    Raises:
        DataError: when it is missing, truncated or invalid.
    """
    refuse_existing(target, force)
    file = path / FILE if path.is_dir() else path
    if not file.is_file():
        raise DataError(f"{file} is missing; get it from github.com/google-deepmind/dsprites-dataset.")
    classes = _latents(file, images)
    split = drawn(images, {"train": card.n_train, "val": card.n_val, "test": card.n_test})
    provenance = {"dataset": card_id, "source": FILE, "splits": {"seed": SEED}, "note": NOTE}
    examples = _examples(file, split, classes, TASKS[card_id])
    return write_layout(target, examples, card, provenance, force=force, on_progress=on_progress)


def _latents(file: Path, images: int) -> NDArray[np.int64]:
    """``latents_classes``, shape (images, 6)."""
    with _readable(file), np.load(file, allow_pickle=False) as archive:
        classes: NDArray[np.int64] = archive["latents_classes"]
    if classes.shape != (images, 6):
        raise DataError(f"{file}: latents_classes has the shape {classes.shape}, it must be {(images, 6)}; get the file again.")
    return classes


def _examples(file: Path, split: dict[str, NDArray[np.int64]], classes: NDArray[np.int64], task: str) -> Iterator[Example]:
    member = {int(row): name for name, rows in split.items() for row in rows}
    for row, pixels in stream_rows(file, "imgs", (len(classes), SIDE, SIDE)):
        if row in member:
            label = dsprites_bin(int(classes[row, COLUMNS[task]]), DSPRITES_STEPS[task])
            yield Example(member[row], png(pixels * np.uint8(255)), ".png", label, f"image {row} of {file}")


def stream_rows(file: Path, key: str, shape: tuple[int, ...]) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """The rows of a uint8 array in an .npz file, one after the other: so that 3 GB of pixels are never in memory at once.

    Args:
        shape: expected shape of the array.

    Raises:
        DataError: when the file is truncated or the array differs.
    """
    with _readable(file), zipfile.ZipFile(file) as archive, archive.open(f"{key}.npy") as stream:
        version = np.lib.format.read_magic(stream)
        header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        found, fortran, kind = header(stream)
        if found != shape or fortran or kind != np.uint8:
            raise DataError(f"{file}: {key} is {kind} of shape {found}, it must be uint8 of shape {shape}; get the file again.")
        size = int(np.prod(shape[1:]))
        for row in range(shape[0]):
            content = stream.read(size)
            if len(content) < size:
                raise EOFError(f"row {row} of {key} is cut off")
            yield row, np.frombuffer(content, np.uint8).reshape(shape[1:])


@contextmanager
def _readable(file: Path) -> Iterator[None]:
    """Converts errors of a damaged archive to DataError."""
    try:
        yield
    except KeyError as error:
        raise DataError(f"{file} has no array {error}; it is not dSprites' .npz file.") from error
    except ValueError as error:  # numpy advises to unpickle what it cannot read
        raise DataError(f"{file} is cut off or no .npz file; get it again.") from error
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError) as error:
        raise DataError(f"{file} is cut off or no .npz file ({error}); get it again.") from error
