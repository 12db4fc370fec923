"""Small tasks in VTAB-1k's layout, and the original files of dSprites and SmallNORB, in their exact formats."""

from __future__ import annotations

import gzip
import io
import struct
import zipfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vpbench.data.catalog import DatasetCard, dataset_card, dataset_names
from vpbench.data.conversion.dsprites import FILE
from vpbench.data.conversion.norb import PARTS

NAMES = [name for name in dataset_names() if name.startswith("vtab.")]
COUNTS = {"n_train": 8, "n_val": 4, "n_test": 6}


def small_card(name: str, **counts: int) -> DatasetCard:
    """The card of a task with fewer images."""
    return dataset_card(name).model_copy(update={**COUNTS, **counts})


def write_task(card: DatasetCard, folder: Path, copies: bool = False) -> Path:
    """A task as people pass it around: ``images/train800/000000.jpg 3``.

    Labels end at the last class and leave out others. With ``copies`` train800val200.txt names files of its own.
    """
    rng = np.random.default_rng(sum(card.title.encode()))
    side = 24
    entries: dict[str, list[tuple[bytes, int]]] = {"train800": [], "val200": [], "test": []}
    for (name, images), count in zip(entries.items(), (card.n_train, card.n_val, card.n_test)):
        for number in range(count):
            stream = io.BytesIO()
            Image.fromarray(rng.integers(0, 256, (side, side, 3), dtype=np.uint8)).save(stream, "jpeg")
            images.append((stream.getvalue(), (card.classes - 1 - number if name == "test" else number) % card.classes))
    entries["train800val200"] = [*entries["train800"], *entries["val200"]]
    lines: dict[str, list[str]] = {}
    for name, images in entries.items():
        if name == "train800val200" and not copies:
            lines[name] = [*lines["train800"], *lines["val200"]]
            continue
        (folder / "images" / name).mkdir(parents=True)
        lines[name] = []
        for number, (content, label) in enumerate(images):
            (folder / "images" / name / f"{number:06d}.jpg").write_bytes(content)
            lines[name].append(f"images/{name}/{number:06d}.jpg {label}\n")
    for name, content in lines.items():
        (folder / f"{name}.txt").write_text("".join(content))
    return folder


def write_dsprites(folder: Path, images: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """dSprites' .npz file, compressed as the official one; returns its images and latent classes."""
    rng = np.random.default_rng(1)
    pixels = rng.integers(0, 2, (images, 64, 64), dtype=np.uint8)
    classes = np.stack([rng.integers(0, size, images) for size in (1, 3, 6, 40, 32, 32)], axis=1)
    folder.mkdir(parents=True, exist_ok=True)
    metadata = np.array({"title": "dSprites"}, dtype=object)
    np.savez_compressed(folder / FILE, metadata=metadata, imgs=pixels, latents_classes=classes, latents_values=classes / 2.0)
    assert zipfile.ZipFile(folder / FILE).testzip() is None
    return pixels, classes


def write_norb(
    folder: Path, images: int, side: int, packed: bool = False
) -> dict[str, tuple[NDArray[np.uint8], NDArray[np.int32]]]:
    """SmallNORB's six files; returns each part's stereo pairs and info."""
    rng = np.random.default_rng(2)
    folder.mkdir(parents=True, exist_ok=True)
    found = {}
    for part, name in PARTS.items():
        pairs = rng.integers(0, 256, (images, 2, side, side), dtype=np.uint8)
        columns = (
            rng.integers(4, 10, images),
            rng.integers(0, 9, images),
            2 * rng.integers(0, 18, images),
            rng.integers(0, 6, images),
        )
        info = np.stack(columns, axis=1).astype("<i4")
        category = rng.integers(0, 5, images).astype("<i4")
        for kind, matrix in (("dat", pairs), ("info", info), ("cat", category)):
            # The sizes are never fewer than three, whatever the number of dimensions.
            sizes = [*matrix.shape, 1, 1][: max(3, matrix.ndim)]
            magic = 0x1E3D4C55 if matrix.dtype == np.uint8 else 0x1E3D4C54
            content = struct.pack(f"<{2 + len(sizes)}i", magic, matrix.ndim, *sizes) + matrix.tobytes()
            file = folder / name.format(kind)
            if packed:
                file.with_name(f"{file.name}.gz").write_bytes(gzip.compress(content))
            else:
                file.write_bytes(content)
        found[part] = (pairs, info)
    return found
