"""SmallNORB's two tasks from its original files, cs.nyu.edu/~ylclab/data/norb-v1.0-small.

Each of the two parts, training and testing, has a ``dat`` file with 24,300 stereo pairs, uint8 (24300, 2, 96, 96), and an
``info`` file, int32 (24300, 4): instance, elevation, azimuth, lighting. The format is that of NORB's page: a magic number for
the type, the number of dimensions, then at least three sizes, all little-endian int32, and the values, last dimension fastest.
"""

from __future__ import annotations

import gzip
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from vpbench.core.errors import DataError
from vpbench.data.cache import OnProgress
from vpbench.data.catalog import DatasetCard
from vpbench.data.conversion.draws import NOTE, SEED, drawn
from vpbench.data.conversion.labels import norb_azimuth, norb_elevation
from vpbench.data.conversion.vtab_layout import Example, png, refuse_existing, write_layout

PARTS = {
    "training": "smallnorb-5x46789x9x18x6x2x96x96-training-{}.mat",
    "testing": "smallnorb-5x01235x9x18x6x2x96x96-testing-{}.mat",
}
IMAGES = 24_300
TYPES: dict[int, Any] = {0x1E3D4C55: np.uint8, 0x1E3D4C54: np.int32}
ELEVATION, AZIMUTH = 1, 2
TASKS = {"vtab.smallnorb-azimuth": (AZIMUTH, norb_azimuth), "vtab.smallnorb-elevation": (ELEVATION, norb_elevation)}


def convert_norb(
    card_id: str,
    card: DatasetCard,
    target: Path,
    folder: Path,
    *,
    images: int = IMAGES,
    side: int = 96,
    force: bool = False,
    on_progress: OnProgress | None = None,
) -> Path:
    """Writes a task's images and lists to ``target``: the left images; validation and test images are from the testing part.

    Args:
        folder: with the files, ``.mat`` or ``.mat.gz``.
        images: expected number of pairs in each part, ``side`` pixels square.

    Raises:
        DataError: when a file is missing, truncated or invalid.
    """
    refuse_existing(target, force)
    files = {(part, kind): _find(folder, name.format(kind)) for part, name in PARTS.items() for kind in ("dat", "info")}
    split = {
        "training": drawn(images, {"train": card.n_train}),
        "testing": drawn(images, {"val": card.n_val, "test": card.n_test}),
    }
    provenance = {"dataset": card_id, "source": "SmallNORB .mat files", "splits": {"seed": SEED}, "note": NOTE}
    column, label_of = TASKS[card_id]

    def examples() -> Iterator[Example]:
        for part, members in split.items():
            member = {int(row): name for name, rows in members.items() for row in rows}
            info = np.array([row for _, row in stream_matrix(files[part, "info"], np.int32, (images, 4))])
            for row, pair in stream_matrix(files[part, "dat"], np.uint8, (images, 2, side, side)):
                if row in member:
                    label = label_of(int(info[row, column]))
                    yield Example(member[row], png(pair[0]), ".png", label, f"image {row} of {files[part, 'dat']}")

    return write_layout(target, examples(), card, provenance, force=force, on_progress=on_progress)


def stream_matrix(file: Path, kind: Any, shape: tuple[int, ...]) -> Iterator[tuple[int, NDArray[Any]]]:
    """The rows of a NORB matrix, one after the other.

    Args:
        kind: type of its values, uint8 or int32; ``shape``: its sizes.

    Raises:
        DataError: when the file is truncated or has another matrix.
    """
    try:
        with _opened(file) as stream:
            magic, dimensions = struct.unpack("<ii", _exactly(stream, 8))
            if magic not in TYPES or not 1 <= dimensions <= 8:
                raise DataError(f"{file} is no NORB matrix (it begins with {magic:#x}); get it again.")
            found = struct.unpack(f"<{max(3, dimensions)}i", _exactly(stream, 4 * max(3, dimensions)))[:dimensions]
            if found != shape or TYPES[magic] is not kind:
                name = np.dtype(TYPES[magic]).name
                raise DataError(f"{file} is {name} of shape {found}, it must be {np.dtype(kind).name} of shape {shape}.")
            size = int(np.prod(shape[1:])) * np.dtype(kind).itemsize
            for row in range(shape[0]):
                values = np.frombuffer(_exactly(stream, size), np.dtype(kind).newbyteorder("<"))
                yield row, values.reshape(shape[1:])
    except (EOFError, OSError, zlib.error) as error:
        raise DataError(f"{file} is cut off or damaged ({error}); get it again.") from error


def _find(folder: Path, name: str) -> Path:
    for file in (folder / name, folder / f"{name}.gz"):
        if file.is_file():
            return file
    raise DataError(f"{folder / name} (or {name}.gz) is missing; get it from cs.nyu.edu/~ylclab/data/norb-v1.0-small.")


def _opened(file: Path) -> BinaryIO:
    return cast(BinaryIO, gzip.open(file)) if file.suffix == ".gz" else file.open("rb")


def _exactly(stream: BinaryIO, size: int) -> bytes:
    content = stream.read(size)
    if len(content) < size:
        raise EOFError("it ends too early")
    return content
