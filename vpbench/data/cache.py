"""The image cache: images are decoded and resized once, written as uint8 and memory-mapped by later runs.

A cache is a folder whose name is a hash of everything its pixels depend on. It is built under a temporary name and renamed
when it is complete, so that readers never see a partial cache, even if several processes build it at the same time.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vpbench.core.errors import DataError
from vpbench.core.hashing import digest
from vpbench.core.user_folders import cache_root
from vpbench.data.decoding import EACH_ALONE, WhiteLevels
from vpbench.data.image_errors import UnreadableError
from vpbench.data.masks import nearest
from vpbench.data.ragged_images import Pixels, RaggedImages
from vpbench.data.raw import Labels, RawData, RawSplit
from vpbench.spec.run_spec import Preprocess

# Incremented when resized pixels or the file layout change.
VERSION = 2
SCRATCH = ".building-"
PIXELS, SIZES = "pixels.bin", "sizes.npy"
MASKS, MASK_SIZES = "masks.bin", "mask_sizes.npy"
BLOCK = 1 << 24  # bytes with a checksum of their own, so that several threads share a file
PIECE = 1 << 20  # bytes of it that a thread holds at a time

OnProgress = Callable[[int, int], None]


@dataclass(frozen=True)
class CachedSplit:
    """One split, ready for batches.

    Attributes:
        images: read-only, uint8 of shape (n, height, width, 3), or :class:`RaggedImages` where sizes differ.
        labels: class ids, shape (n,).
        image_size: side of the network's input; larger images have a margin for random crops.
        prepared: hash of how the images were decoded and resized; empty where that is not known.
        identities: of each image before that.
        masks: read-only class ids of pixels, uint8 of (n, height, width), or :class:`RaggedImages` where sizes differ. Those
            for training are as large as the images, others as in the data set. None where an image has one label.
    """

    images: Pixels | RaggedImages
    labels: Labels
    image_size: int
    prepared: str = ""
    identities: Sequence[str] = ()
    masks: Pixels | RaggedImages | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: NDArray[np.int64], offsets: NDArray[np.float64] | None = None) -> Pixels:
        """Selected images as a new array, uint8 of shape (len(indices), image_size, image_size, 3).

        Args:
            offsets: top and left offset of each crop as a fraction of the margin, in [0, 1), shape (len(indices), 2); None for
                a centre crop. Used only if images have a margin.
        """
        side = self.image_size
        if not self.has_margin:
            return np.asarray(self.images)[indices]
        crops = np.empty((len(indices), side, side, 3), np.uint8)
        for position, index in enumerate(indices.tolist()):
            image = self.images[index]
            if offsets is None:
                crops[position] = _centre(image, side)
            else:
                top, left = (int(offset * (length - side + 1)) for offset, length in zip(offsets[position], image.shape))
                crops[position] = image[top : top + side, left : left + side]
        return crops

    @property
    def has_margin(self) -> bool:
        """Whether images are larger than the network's input."""
        return not isinstance(self.images, np.ndarray) or self.images.shape[1:3] != (self.image_size, self.image_size)


@dataclass(frozen=True)
class CachedData:
    """A data set's splits, ready for batches; ``val`` may be empty. ``notes`` are what was odd about its pixels, ``levels`` what
    became 255 in those of more than 8 bits per sample, ``flaws`` what stays with the rows of its runs."""

    train: CachedSplit
    val: CachedSplit
    test: CachedSplit
    class_names: tuple[str, ...]
    notes: tuple[str, ...] = ()
    levels: WhiteLevels = EACH_ALONE
    flaws: tuple[str, ...] = ()


def prepare(
    raw: RawData,
    preprocess: Preprocess,
    image_size: int,
    folder: Path | None = None,
    on_progress: OnProgress | None = None,
) -> CachedData:
    """Loads all splits from the cache; decodes and resizes them first where they are not cached.

    Each split has its own cache, so that protocols with the same test images share it. With random crops, training images are
    cached uncropped, with a margin; all other images are ``image_size`` x ``image_size``.

    Args:
        folder: of all caches; by default ``VPBENCH_CACHE`` or the user's cache folder.
        on_progress: called with (images done, total) while caches are built.

    Raises:
        UnreadableError: for all images that cannot be decoded, of all splits together.
        DataError: for a cache that cannot be written.
    """
    root = folder or cache_root()
    plans = {
        name: SplitCache.of(root, split, preprocess, image_size, name == "train")
        for name, split in raw.splits.items()
        if len(split)
    }
    progress = Progress(sum(len(plan.split) for plan in plans.values() if plan.load() is None), on_progress)
    images, broken = {}, dict[str, str]()
    for name, plan in plans.items():
        try:
            images[name] = plan.images(progress)
        except UnreadableError as error:
            broken.update(error.errors)
    if broken:
        raise UnreadableError.of(broken)
    empty = np.empty((0, image_size, image_size, 3), np.uint8)
    splits = {
        name: CachedSplit(images[name], split.labels, image_size, plans[name].prepared, split.identities, plans[name].masks())
        if name in plans
        else CachedSplit(empty, split.labels, image_size)
        for name, split in raw.splits.items()
    }
    plain = {name: count for name, plan in plans.items() if (count := plan.one_colour())}
    notes = [f"{count} of {len(raw.splits[name])} {name} images are of one colour each." for name, count in plain.items()]
    levels = raw.splits["train"].levels
    return CachedData(**splits, class_names=raw.class_names, notes=tuple(notes), levels=levels, flaws=raw.all_flaws)


def resized(image: Image.Image, preprocess: Preprocess, image_size: int, *, keep_margin: bool = False) -> Pixels:
    """An RGB image as uint8 (height, width, 3) for an input of ``image_size`` pixels.

    ``stretch`` resizes to a square and ignores the aspect ratio. ``crop`` resizes the short side to image_size / crop_ratio and
    takes a centre crop, unless ``keep_margin`` leaves cropping to the batches. ``original`` leaves all to the batches.
    """
    if preprocess.resize == "original":
        return np.asarray(image)
    if preprocess.resize == "stretch":
        return _scaled(image, (image_size, image_size), preprocess)
    short = round(image_size / preprocess.crop_ratio)
    width, height = (max(short, round(side * short / min(image.size))) for side in image.size)
    pixels = _scaled(image, (width, height), preprocess)
    if keep_margin:
        return pixels
    return _centre(pixels, image_size)


def _scaled(image: Image.Image, size: tuple[int, int], preprocess: Preprocess) -> Pixels:
    """Resizes to ``size``, (width, height). Pillow always antialiases; ``tf.image.resize``, which VPT uses for VTAB, does not,
    nor does torch's ``interpolate`` (half-pixel centres)."""
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
    """Counts decoded images and reports them."""

    total: int
    report: OnProgress | None
    done: int = 0

    def __call__(self) -> None:
        self.done += 1
        if self.report:
            self.report(self.done, self.total)


@dataclass(frozen=True)
class SplitCache:
    """The cache of one split; ``folder`` need not exist yet."""

    folder: Path
    split: RawSplit
    preprocess: Preprocess
    image_size: int
    keep_margin: bool
    fits_images: bool = False  # masks are resized with the images

    @classmethod
    def of(cls, root: Path, split: RawSplit, preprocess: Preprocess, image_size: int, training: bool) -> SplitCache:
        """The folder's name is a hash of what cached pixels depend on; flips and normalisation are applied on the device."""
        keep_margin = training and preprocess.resize == "crop" and preprocess.random_crop
        key = [VERSION, split.digest, image_size, keep_margin, _resizing(preprocess)]
        fits_images = training and split.has_masks
        if split.has_masks:
            key += [digest(split.mask_identities), fits_images]
        return cls(root / digest(key), split, preprocess, image_size, keep_margin, fits_images)

    @property
    def prepared(self) -> str:
        """Hash of what is done to each image, whatever the split."""
        return digest([VERSION, self.image_size, self.keep_margin, _resizing(self.preprocess)])

    def images(self, progress: Progress) -> Pixels | RaggedImages:
        """The images; builds the cache if it is missing."""
        for attempt in range(3):  # more than one build only when other processes replace a broken cache at the same moment
            if attempt:
                self._build(progress)
            if (found := self.load()) is not None:
                return found
        raise DataError(
            f"the image cache {self.folder} changes while it is read; end other runs or set VPBENCH_CACHE to another folder."
        )

    def load(self) -> Pixels | RaggedImages | None:
        """The cached images, or None if the cache is missing, incomplete, damaged, or without checksums as earlier ones."""
        try:
            wanted = json.loads((self.folder / "complete.json").read_text())["crc32"]
            names = (PIXELS, SIZES, *([MASKS, MASK_SIZES] if self.split.has_masks else []))
            if any(checksums_of(self.folder / name) != tuple(wanted[name]) for name in names):
                return None
            return self._array(PIXELS, SIZES, (3,))
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return None

    def masks(self) -> Pixels | RaggedImages | None:
        """The masks of a cache that is there; None for images with one label each."""
        return self._array(MASKS, MASK_SIZES, ()) if self.split.has_masks else None

    def _array(self, pixels: str, sizes_of: str, depth: tuple[int, ...]) -> Pixels | RaggedImages:
        sizes: NDArray[np.int64] = np.load(self.folder / sizes_of)
        flat: Pixels = np.memmap(self.folder / pixels, np.uint8, mode="r")
        same = (sizes == sizes[0]).all()
        return flat.reshape(len(sizes), *sizes[0], *depth) if same else RaggedImages(flat, sizes, depth)

    def one_colour(self) -> int:
        """How many images have one colour only, as found when the cache was built."""
        with suppress(OSError, ValueError):
            return int(json.loads((self.folder / "complete.json").read_text()).get("one_colour", 0))
        return 0

    def _build(self, progress: Progress) -> None:
        """Builds the cache in a temporary folder and renames it; no partial cache is left behind on errors."""
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
        """Writes ``pixels.bin`` (all images, flat), ``sizes.npy`` ((n, 2): height, width), the same of masks, if any,
        and, last, ``complete.json`` with the size and the checksums of each file, by which files that were cut off or have
        changed are detected."""
        sizes, mask_sizes, one_colour = [], [], 0
        with _synced(new / PIXELS) as stream, _synced(new / MASKS) if self.split.has_masks else nullcontext() as mask_stream:
            for pixels, mask in self._resized_all():
                stream.write(pixels.tobytes())
                sizes.append(pixels.shape[:2])
                if mask is not None and mask_stream is not None:
                    mask_stream.write(mask.tobytes())
                    mask_sizes.append(mask.shape)
                one_colour += bool((pixels == pixels[:1, :1]).all())
                progress()
        for name, found in ((SIZES, sizes), *([(MASK_SIZES, mask_sizes)] if mask_sizes else [])):
            with _synced(new / name) as stream:
                np.save(stream, np.array(found, np.int64).reshape(-1, 2))
        files = sorted(new.iterdir())
        summary = {
            "images": len(sizes),
            "one_colour": one_colour,
            "bytes": {file.name: file.stat().st_size for file in files},
            "crc32": {file.name: checksums_of(file) for file in files},
        }
        with _synced(new / "complete.json") as stream:
            stream.write(json.dumps(summary, indent=1).encode())

    def _resized_all(self) -> Iterator[tuple[Pixels, Pixels | None]]:
        """All images in order, with their masks. Pillow releases the GIL, so threads suffice.

        Raises:
            UnreadableError: at the end, for all images that cannot be decoded.
        """
        broken: dict[str, str] = {}

        def one(index: int) -> tuple[Pixels, Pixels | None] | None:
            try:
                image = self.split.image(index, self.preprocess)
                mask = self.split.mask(index, image.size) if self.split.has_masks else None
                pixels = resized(image, self.preprocess, self.image_size, keep_margin=self.keep_margin)
                return pixels, nearest(mask, pixels.shape[:2]) if mask is not None and self.fits_images else mask
            except UnreadableError as error:
                broken.update(error.errors)
                return None

        with ThreadPoolExecutor() as pool:
            for start in range(0, len(self.split), 256):  # map() submits all of its input at once, which would fill the memory
                done = pool.map(one, range(start, min(start + 256, len(self.split))))
                yield from (found for found in done if found is not None)
        if broken:
            raise UnreadableError.of(broken)


def _resizing(preprocess: Preprocess) -> dict[str, Any]:
    """The fields that cached pixels depend on."""
    fields = {"resize", "interpolation", "antialias", "orientation", "background"}
    fields |= {"crop_ratio"} if preprocess.resize == "crop" else set()
    return {name: value for name, value in preprocess.identity().items() if name in fields}


def checksums_of(path: Path) -> tuple[int, ...]:
    """CRC-32 of every :data:`BLOCK` bytes of a file. A process computes them once for a file that does not change."""
    state = path.stat()
    return _checksums(path, state.st_size, state.st_mtime_ns, state.st_ino)


@cache
def _checksums(path: Path, size: int, *_version: int) -> tuple[int, ...]:
    def of_block(start: int) -> int:
        with path.open("rb") as stream:
            stream.seek(start)
            value = 0
            for _ in range(BLOCK // PIECE):
                value = zlib.crc32(stream.read(PIECE), value)
            return value

    with ThreadPoolExecutor() as pool:  # crc32 and read release the GIL
        return tuple(pool.map(of_block, range(0, size, BLOCK)))


def _sweep(root: Path) -> None:
    """Removes builds of killed processes, older than a day."""
    for left in root.glob(f"{SCRATCH}*"):
        with suppress(FileNotFoundError):  # another process may remove it, too
            if time.time() - left.stat().st_mtime > 24 * 3600:
                shutil.rmtree(left, ignore_errors=True)


@contextmanager
def _synced(path: Path) -> Iterator[BinaryIO]:
    """Opens a new file and fsyncs it at the end, so that a power failure cannot leave an empty file."""
    with path.open("wb") as stream:
        yield stream
        stream.flush()
        os.fsync(stream.fileno())


def _move(new: Path, folder: Path, is_complete: Callable[[], bool]) -> None:
    """Renames a finished cache, unless another process was faster; replaces an incomplete one."""
    try:
        new.replace(folder)
    except OSError:
        if is_complete():
            return
        with suppress(FileNotFoundError):  # another process may have moved it away already
            folder.replace(new.parent / "broken")
        new.replace(folder)
