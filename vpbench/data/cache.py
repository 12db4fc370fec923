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
from numpy.typing import NDArray
from PIL import Image

from vpbench.core.cache_folder import cache_root
from vpbench.core.errors import DataError
from vpbench.core.hashing import digest
from vpbench.data.raw import Labels, RawData, RawSplit
from vpbench.spec.run_spec import Preprocess

# Rises when the same images would be resized to other pixels or written in another layout.
VERSION = 2
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
    folder: Path | None = None,
    on_progress: OnProgress | None = None,
) -> CachedData:
    """All images resized for an input of ``image_size`` pixels, from the cache or, the first time, from their source.

    Each split has a cache of its own, so that tasks and protocols with the same test images share them. With random crops,
    training images keep what lies outside the crop; all others are ``image_size`` square.

    Args:
        folder: where caches lie; by default ``VPBENCH_CACHE``, or else the user's cache folder.
        on_progress: called with (images done, images in all) while caches are built.

    Raises:
        DataError: for an image that cannot be decoded, or a cache that cannot be written.
    """
    root = folder or cache_root()
    plans = {
        name: SplitCache.of(root, split, preprocess, image_size, name == "train")
        for name, split in raw.splits.items()
        if len(split)
    }
    progress = Progress(sum(len(plan.split) for plan in plans.values() if plan.load() is None), on_progress)
    images = {name: plan.images(progress) for name, plan in plans.items()}
    empty = np.empty((0, image_size, image_size, 3), np.uint8)
    splits = {name: CachedSplit(images.get(name, empty), split.labels, image_size) for name, split in raw.splits.items()}
    return CachedData(**splits, class_names=raw.class_names)


def resized(image: Image.Image, preprocess: Preprocess, image_size: int, *, keep_margin: bool = False) -> Pixels:
    """An RGB image as uint8 (height, width, 3) for an input of ``image_size`` pixels.

    ``stretch`` gives a square whatever the aspect. ``crop`` makes the short side image_size / crop_ratio and cuts out the
    centre, unless ``keep_margin`` leaves the cutting to the batches.
    """
    if preprocess.resize == "stretch":
        return _scaled(image, (image_size, image_size), preprocess)
    short = round(image_size / preprocess.crop_ratio)
    width, height = (max(short, round(side * short / min(image.size))) for side in image.size)
    pixels = _scaled(image, (width, height), preprocess)
    if keep_margin:
        return pixels
    return _centre(pixels, image_size)


def _scaled(image: Image.Image, size: tuple[int, int], preprocess: Preprocess) -> Pixels:
    """``size`` is (width, height). Pillow always smooths when it shrinks an image; TensorFlow's ``tf.image.resize``, with
    which VPT prepares VTAB, does not, and neither does torch's ``interpolate`` with half-pixel centres."""
    if preprocess.antialias:
        return np.asarray(image.resize(size, Image.Resampling[preprocess.interpolation.upper()]))
    import torch
    from torch.nn.functional import interpolate

    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float()
    scaled = interpolate(pixels, size=size[::-1], mode=preprocess.interpolation, align_corners=False)
    return np.asarray(scaled[0].permute(1, 2, 0).clamp(0, 255).round().byte().numpy())


def _centre(pixels: Pixels, side: int) -> Pixels:
    top, left = (pixels.shape[0] - side) // 2, (pixels.shape[1] - side) // 2
    return pixels[top : top + side, left : left + side]


@dataclass
class Progress:
    """How many of ``total`` images are decoded."""

    total: int
    report: OnProgress | None
    done: int = 0

    def __call__(self) -> None:
        self.done += 1
        if self.report:
            self.report(self.done, self.total)


@dataclass(frozen=True)
class SplitCache:
    """The cached images of one split, in ``folder``, whether they are there yet or not."""

    folder: Path
    split: RawSplit
    preprocess: Preprocess
    image_size: int
    keep_margin: bool

    @classmethod
    def of(cls, root: Path, split: RawSplit, preprocess: Preprocess, image_size: int, training: bool) -> SplitCache:
        """Its folder is named after all that changes a cached pixel. Flips and normalisation happen later, on the device."""
        crops = preprocess.resize == "crop"
        keep_margin = training and crops and preprocess.random_crop
        fields = {"resize", "interpolation", "antialias"} | ({"crop_ratio"} if crops else set())
        key = [VERSION, split.digest, image_size, keep_margin, preprocess.model_dump(mode="json", include=fields)]
        return cls(root / digest(key), split, preprocess, image_size, keep_margin)

    def images(self, progress: Progress) -> Pixels | RaggedImages:
        """The images, decoded first where they are not in the cache."""
        for attempt in range(3):  # more than one build only when other processes replace a broken cache at the same moment
            if attempt:
                self._build(progress)
            if (found := self.load()) is not None:
                return found
        raise DataError(
            f"the image cache {self.folder} changes while it is read; end other runs or set VPBENCH_CACHE to another folder."
        )

    def load(self) -> Pixels | RaggedImages | None:
        """What is in the folder, or None when it is not there or not whole."""
        try:
            expected = json.loads((self.folder / "complete.json").read_text())["bytes"]
            if any((self.folder / name).stat().st_size != size for name, size in expected.items()):
                return None
            sizes: NDArray[np.int64] = np.load(self.folder / "sizes.npy")
            flat: Pixels = np.memmap(self.folder / "pixels.bin", np.uint8, mode="r")
        except (OSError, ValueError, KeyError):
            return None
        return flat.reshape(len(sizes), *sizes[0], 3) if (sizes == sizes[0]).all() else RaggedImages(flat, sizes)

    def _build(self, progress: Progress) -> None:
        """Builds the cache beside its place and moves it there. Whatever happens, nothing half-done is left."""
        root = self.folder.parent
        try:
            root.mkdir(parents=True, exist_ok=True)
            _sweep(root)
            with TemporaryDirectory(dir=root, prefix=SCRATCH) as scratch:
                new = Path(scratch, "new")
                new.mkdir()
                self._write(new, progress)
                _move(new, self.folder, lambda: self.load() is not None)
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            problem = "the disk is full" if full else (error.strerror or str(error))
            raise DataError(
                f"cannot write the image cache {root} ({problem}); set VPBENCH_CACHE to a folder with room."
            ) from error

    def _write(self, new: Path, progress: Progress) -> None:
        """``pixels.bin``, all pixels one after the other, and ``sizes.npy``, (n, 2) heights and widths; at last
        ``complete.json`` with every file's size, by which a truncated file is found out."""
        sizes = []
        with _synced(new / "pixels.bin") as stream:
            for pixels in self._resized_all():
                stream.write(pixels.tobytes())
                sizes.append(pixels.shape[:2])
                progress()
        with _synced(new / "sizes.npy") as stream:
            np.save(stream, np.array(sizes, np.int64).reshape(-1, 2))
        summary = {"images": len(sizes), "bytes": {file.name: file.stat().st_size for file in sorted(new.iterdir())}}
        with _synced(new / "complete.json") as stream:
            stream.write(json.dumps(summary, indent=1).encode())

    def _resized_all(self) -> Iterator[Pixels]:
        """All images in order. Pillow decodes and resizes outside Python's lock, so threads are enough."""

        def one(index: int) -> Pixels:
            return resized(self.split.image(index), self.preprocess, self.image_size, keep_margin=self.keep_margin)

        with ThreadPoolExecutor() as pool:
            for start in range(0, len(self.split), 256):  # map() takes all of its input at once, and would fill the memory
                yield from pool.map(one, range(start, min(start + 256, len(self.split))))


def _sweep(root: Path) -> None:
    """Removes what killed processes left: builds begun more than a day ago."""
    for left in root.glob(f"{SCRATCH}*"):
        with suppress(FileNotFoundError):  # another process may remove it, too
            if time.time() - left.stat().st_mtime > 24 * 3600:
                shutil.rmtree(left, ignore_errors=True)


@contextmanager
def _synced(path: Path) -> Iterator[BinaryIO]:
    """A new file that is on the disk when the block ends, so that a power cut cannot leave a name without content."""
    with path.open("wb") as stream:
        yield stream
        stream.flush()
        os.fsync(stream.fileno())


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
