"""A small published data set: its card, its source, and the archive that its publisher would offer."""

from __future__ import annotations

import hashlib
import io
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vpbench.data.catalog import DatasetCard, Download

# The module of vpbench.data.sources that reads it.
SOURCE = """
from vpbench.data.sources._listed import from_lists, read_lines


def read(folder):
    rows = {split: [line.split() for line in read_lines(folder / f"{split}.txt")] for split in ("train", "test")}
    return from_lists(folder, {split: [(path, int(label)) for path, label in lines] for split, lines in rows.items()})
"""
FACTS: dict[str, Any] = {
    "title": "Pictures",
    "description": "Noise of three kinds.",
    "group": "natural",
    "source": "pictures",
    "folders": ("pictures", "Pictures-1.0"),
    "classes": 3,
    "n_train": 12,
    "n_val": 3,
    "n_test": 6,
    "image_size": "24x24",
    "licence": "CC0-1.0",
    "origin": "drawn by this test",
    "how_to_get": "Ask at https://pictures.invalid/.",
}


def members() -> dict[str, bytes]:
    """Files of the data set: 15 training and 6 test images and their lists."""
    rng = np.random.default_rng(0)
    found: dict[str, bytes] = {}
    for split, count in (("train", 5), ("test", 2)):
        lines = []
        for kind in range(3):
            for number in range(count):
                stream = io.BytesIO()
                Image.fromarray((rng.integers(0, 40, (24, 24, 3)) + 100 * kind).astype(np.uint8)).save(stream, "png")
                found[f"images/{split}/{kind}-{number}.png"] = stream.getvalue()
                lines.append(f"images/{split}/{kind}-{number}.png {kind}\n")
        found[f"{split}.txt"] = "".join(lines).encode()
    return found


def packed(kind: str, files: dict[str, bytes] | None = None) -> bytes:
    """An archive, by its suffix."""
    stream = io.BytesIO()
    files = members() if files is None else files
    if kind == ".zip":
        with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as opened:
            for name, content in files.items():
                opened.writestr(name, content)
        return stream.getvalue()
    mode: Any = {".tar": "w:", ".tar.gz": "w:gz", ".tgz": "w:gz", ".tar.bz2": "w:bz2", ".tar.xz": "w:xz"}[kind]
    with tarfile.open(fileobj=stream, mode=mode) as opened:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            opened.addfile(member, io.BytesIO(content))
    return stream.getvalue()


def offered(url: str, content: bytes, **facts: Any) -> Download:
    """How a card names a file, with its size and checksum."""
    return Download(**{"url": url, "sha256": hashlib.sha256(content).hexdigest(), "size": len(content), "unpack": True, **facts})


def card(*downloads: Download, **facts: Any) -> DatasetCard:
    return DatasetCard(**{**FACTS, "downloads": downloads, **facts})


def lay_out(folder: Path, files: dict[str, bytes] | None = None) -> Path:
    """The data set's files below ``folder``, as a person would have put them there."""
    for name, content in (members() if files is None else files).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder
