"""Images decoded and resized once, kept as uint8 files that later runs map into memory.

A cache is a folder named after what its pixels depend on. It is built under another name and renamed when it is whole,
so that a reader finds all of it or nothing, also when several processes build it at the same time.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import BinaryIO

import numpy as np
import platformdirs
from numpy.typing import NDArray
from PIL import Image

from vpbench.core.errors import DataError
from vpbench.core.hashing import digest
from vpbench.data.raw import SPLITS, Labels, RawData, RawSplit
from vpbench.execution.spec import Preprocess

# Rises when the same images would be resized to other pixels or written in another layout.
VERSION = 1
SCRATCH = ".building-"

Pixels = NDArray[np.uint8]
OnProgress = Callable[[int, int], None]


class RaggedImages:
    """Images of different sizes in one flat buffer; item ``i`` is uint8 of shape (height, width, 3)."""

    def __init__(self, flat: Pixels, sizes: NDArray[np.int64]) -> None:
        self._flat, self._sizes = flat, sizes
        self._starts = np.concatenate([[0], np.cumsum(sizes.prod(axis=1) * 3)])

    def __len__(self) -> int:
        return len(self._sizes)

    def __getitem__(self, index: int) -> Pixels:
        height, width = self._sizes[index]
        return self._flat[self._starts[index] : self._starts[index + 1]].reshape(height, width, 3)


@dataclass(frozen=True)
class CachedSplit:
    """One split, ready for batches.

    Attributes:
        images: read-only, uint8 of shape (n, height, width, 3), or :class:`RaggedImages` where sizes differ.
        labels: class ids, shape (n,).
        image_size: side of the network's input; larger images have a margin for random crops.
    """

    images: Pixels | RaggedImages
    labels: Labels
    image_size: int

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: NDArray[np.int64], places: NDArray[np.float64] | None = None) -> Pixels:
        """Some images as a new array, uint8 of shape (len(indices), image_size, image_size, 3).

        Args:
            places: where to cut out images that have a margin, in 0 ... 1 of the room from the top and from the left,
                shape (len(indices), 2), 1 excluded; None for the centre.
        """
        side = self.image_size
        if not self.has_margin:
            return np.asarray(self.images)[indices]
        crops = np.empty((len(indices), side, side, 3), np.uint8)
        for position, index in enumerate(indices.tolist()):
            image = self.images[index]
            if places is None:
                crops[position] = _centre(image, side)
            else:
                top, left = (int(place * (room - side + 1)) for place, room in zip(places[position], image.shape))
                crops[position] = image[top : top + side, left : left + side]
        return crops

    @property
    def has_margin(self) -> bool:
        """Whether images are larger than the network's input."""
        return not isinstance(self.images, np.ndarray) or self.images.shape[1:3] != (self.image_size, self.image_size)


@dataclass(frozen=True)
class CachedData:
    """A data set's splits, ready for batches; ``val`` may be empty."""

    train: CachedSplit
    val: CachedSplit
    test: CachedSplit
    class_names: tuple[str, ...]


def prepare(
    raw: RawData,
    preprocess: Preprocess,
    image_size: int,
    cache_root: Path | None = None,
    on_progress: OnProgress | None = None,
) -> CachedData:
    """All images resized for an input of ``image_size`` pixels, from the cache or, the first time, from their source.

    With random crops, training images keep what lies outside the crop; all others are ``image_size`` square.

    Args:
        cache_root: where caches lie; by default ``VPBENCH_CACHE``, or else the user's cache folder.
        on_progress: called with (images done, images in all) while a cache is built.

    Raises:
        DataError: for an image that cannot be decoded, or a cache that cannot be written.
    """
    root = cache_root or default_root()
    folder = root / cache_key(raw, preprocess, image_size)
    for attempt in range(3):  # more than one build only when other processes replace a broken cache at the same moment
        if attempt:
            _build(folder, raw, preprocess, image_size, on_progress)
        if (cached := _load(folder, raw, image_size)) is not None:
            return cached
    raise DataError(f"the image cache {folder} changes while it is read; end other runs or set VPBENCH_CACHE to another folder.")


def default_root() -> Path:
    """``VPBENCH_CACHE``, or else the user's cache folder."""
    chosen = os.environ.get("VPBENCH_CACHE")
    return Path(chosen).expanduser() if chosen else platformdirs.user_cache_path("vpbench")


def cache_key(raw: RawData, preprocess: Preprocess, image_size: int) -> str:
    """Hash of all that changes a cached pixel. Flips and normalisation happen later, on the device."""
    fields = {"resize", "interpolation"} | ({"crop_ratio", "random_crop"} if preprocess.resize == "crop" else set())
    return digest([VERSION, raw.digest, image_size, preprocess.model_dump(mode="json", include=fields)])


def resized(image: Image.Image, preprocess: Preprocess, image_size: int, *, keep_margin: bool = False) -> Pixels:
    """An RGB image as uint8 (height, width, 3) for an input of ``image_size`` pixels, resized with antialiasing.

    ``stretch`` gives a square whatever the aspect. ``crop`` makes the short side image_size / crop_ratio and cuts out the
    centre, unless ``keep_margin`` leaves the cutting to the batches.
    """
    filtering = Image.Resampling[preprocess.interpolation.upper()]
    if preprocess.resize == "stretch":
        return np.asarray(image.resize((image_size, image_size), filtering))
    short = round(image_size / preprocess.crop_ratio)
    width, height = (max(short, round(side * short / min(image.size))) for side in image.size)
    pixels = np.asarray(image.resize((width, height), filtering))
    if keep_margin:
        return pixels
    return _centre(pixels, image_size)


def _centre(pixels: Pixels, side: int) -> Pixels:
    top, left = (pixels.shape[0] - side) // 2, (pixels.shape[1] - side) // 2
    return pixels[top : top + side, left : left + side]


def _load(folder: Path, raw: RawData, image_size: int) -> CachedData | None:
    """The cache in ``folder``, or None when it is not there or not whole."""
    try:
        expected = json.loads((folder / "complete.json").read_text())["bytes"]
        if any((folder / name).stat().st_size != size for name, size in expected.items()):
            return None
        splits = {
            split: CachedSplit(_images(folder, split, image_size), raw.splits[split].labels, image_size) for split in SPLITS
        }
    except (OSError, ValueError, KeyError):
        return None
    return CachedData(**splits, class_names=raw.class_names)


def _images(folder: Path, split: str, image_size: int) -> Pixels | RaggedImages:
    sizes: NDArray[np.int64] = np.load(folder / f"{split}_sizes.npy")
    if not len(sizes):
        return np.empty((0, image_size, image_size, 3), np.uint8)
    flat: Pixels = np.memmap(folder / f"{split}.bin", np.uint8, mode="r")
    return flat.reshape(len(sizes), *sizes[0], 3) if (sizes == sizes[0]).all() else RaggedImages(flat, sizes)


def _build(folder: Path, raw: RawData, preprocess: Preprocess, image_size: int, on_progress: OnProgress | None) -> None:
    """Builds the cache beside its place and moves it there. Whatever happens, nothing half-done is left."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _sweep(folder.parent)
        with TemporaryDirectory(dir=folder.parent, prefix=SCRATCH) as scratch:
            new = Path(scratch, "new")
            new.mkdir()
            _write(new, raw, preprocess, image_size, on_progress)
            _move(new, folder, lambda: _load(folder, raw, image_size) is not None)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        problem = "the disk is full" if full else (error.strerror or str(error))
        raise DataError(
            f"cannot write the image cache {folder.parent} ({problem}); set VPBENCH_CACHE to a folder with room."
        ) from error


def _sweep(root: Path) -> None:
    """Removes what killed processes left: builds begun more than a day ago."""
    for left in root.glob(f"{SCRATCH}*"):
        with suppress(FileNotFoundError):  # another process may remove it, too
            if time.time() - left.stat().st_mtime > 24 * 3600:
                shutil.rmtree(left, ignore_errors=True)


def _write(new: Path, raw: RawData, preprocess: Preprocess, image_size: int, on_progress: OnProgress | None) -> None:
    """Per split ``.bin``, all pixels one after the other, and ``_sizes.npy``, (n, 2) heights and widths; at last
    ``complete.json`` with every file's size, by which a truncated file is found out."""
    total, done = sum(len(split) for split in raw.splits.values()), 0
    for name, split in raw.splits.items():
        keep_margin = name == "train" and preprocess.random_crop
        sizes = []
        with _synced(new / f"{name}.bin") as stream:
            for pixels in _resized_all(split, preprocess, image_size, keep_margin):
                stream.write(pixels.tobytes())
                sizes.append(pixels.shape[:2])
                done += 1
                if on_progress:
                    on_progress(done, total)
        with _synced(new / f"{name}_sizes.npy") as stream:
            np.save(stream, np.array(sizes, np.int64).reshape(-1, 2))
    summary = {
        "images": {name: len(split) for name, split in raw.splits.items()},
        "bytes": {file.name: file.stat().st_size for file in sorted(new.iterdir())},
    }
    with _synced(new / "complete.json") as stream:
        stream.write(json.dumps(summary, indent=1).encode())


@contextmanager
def _synced(path: Path) -> Iterator[BinaryIO]:
    """A new file that is on the disk when the block ends, so that a power cut cannot leave a name without content."""
    with path.open("wb") as stream:
        yield stream
        stream.flush()
        os.fsync(stream.fileno())


def _resized_all(split: RawSplit, preprocess: Preprocess, image_size: int, keep_margin: bool) -> Iterator[Pixels]:
    """All images of a split in order. Pillow decodes and resizes outside Python's lock, so threads are enough."""

    def one(index: int) -> Pixels:
        return resized(split.image(index), preprocess, image_size, keep_margin=keep_margin)

    with ThreadPoolExecutor() as pool:
        for start in range(0, len(split), 256):  # map() takes all of its input at once, and would fill the memory
            yield from pool.map(one, range(start, min(start + 256, len(split))))


def _move(new: Path, folder: Path, is_whole: Callable[[], bool]) -> None:
    """Puts a finished cache in its place, unless another process was faster. A broken one there makes way."""
    try:
        new.replace(folder)
    except OSError:
        if is_whole():
            return
        with suppress(FileNotFoundError):  # another process may have moved it away already
            folder.replace(new.parent / "broken")
        new.replace(folder)
