"""RESISC45 from its authors' archive, in the order of TensorFlow Datasets (TFDS), without TFDS.

``NWPU-RESISC45`` holds a folder of 700 JPEG files for each of 45 classes. TFDS numbers the classes by their sorted names, and
writes a split's examples sorted by md5 of the split's name and the example's key, here ``CLASS_FILE`` (TFDS 4.9:
core/shuffle.py, core/hashing.py and datasets/resisc45). VTAB-1k takes its images from that order.
"""

from __future__ import annotations

import hashlib
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

from vpbench.core.errors import DataError
from vpbench.data.cache import OnProgress
from vpbench.data.catalog import DatasetCard, Download
from vpbench.data.conversion.vtab_layout import Example, refuse_existing, write_layout

TASK = "vtab.resisc45"
FOLDER = "NWPU-RESISC45"
IMAGES = 31_500
HUB = "https://huggingface.co/datasets"

# The authors offer a .rar file on OneDrive, which asks for a browser. These are copies of the folder as .zip on the Hugging Face
# hub; torchgeo uses the first.
ARCHIVE = Download.model_validate(
    {
        "url": f"{HUB}/isaaccorley/resisc45/resolve/883edc0eee77b2c84225472f10f126e3ed83fa6e/NWPU-RESISC45.zip",
        "mirrors": [f"{HUB}/taesiri/NWPU-RESISC45/resolve/main/NWPU-RESISC45.zip"],
        "sha256": "beeecd0b63656290ae6d65cf7763185b0c1c4c54a753ef8088d6fba3faaf1f53",
        "size": 427_389_445,
    }
)

# Percent of TFDS's only split, and images: as VTAB's published code.
SLICES = {"train": (0, "n_train"), "val": (60, "n_val"), "test": (80, "n_test")}


def convert_resisc45(
    card_id: str,
    card: DatasetCard,
    target: Path,
    path: Path,
    *,
    images: int = IMAGES,
    force: bool = False,
    on_progress: OnProgress | None = None,
) -> Path:
    """Writes the task's images and lists to ``target``.

    Args:
        path: the .zip file, or the unpacked folder or its parent.
        images: expected number.

    Raises:
        DataError: when images are missing or the archive is damaged.
    """
    refuse_existing(target, force)
    files, content = _in_archive(path) if path.is_file() else _in_folder(path)
    keys = {f"{kind}_{name}": (kind, name) for kind, name in files}
    if len(keys) != images:
        raise DataError(f"{path} holds {len(keys)} images in class folders, {card.title} is made of {images}; get it again.")
    classes = sorted({kind for kind, _ in files})
    order = [keys[key] for key in tfds_order("train", list(keys))]
    parts = {part: order[images * start // 100 :][: getattr(card, count)] for part, (start, count) in SLICES.items()}

    def examples() -> Iterator[Example]:
        for part, members in parts.items():
            for kind, name in members:
                yield Example(part, content(kind, name), ".jpg", classes.index(kind), f"{kind}/{name} of {path}")

    provenance = {
        "dataset": card_id, "source": FOLDER, "splits": "as TFDS resisc45 3.0.0, whose order is sorted by md5", "note": "",
    }  # fmt: skip
    return write_layout(target, examples(), card, provenance, force=force, on_progress=on_progress)


def tfds_order(split: str, keys: list[str]) -> list[str]:
    """Keys of examples in the order in which TFDS writes a split."""
    return sorted(keys, key=lambda key: hashlib.md5(split.encode() + key.encode(), usedforsecurity=False).digest())


Members = tuple[list[tuple[str, str]], Callable[[str, str], bytes]]


def _in_folder(path: Path) -> Members:
    root = next((place for place in (path / FOLDER, path) if place.is_dir()), path)
    if not root.is_dir():
        raise DataError(f"{path} does not exist; give {FOLDER}.zip or the folder {FOLDER}.")
    files = [(file.parent.name, file.name) for file in root.glob("*/*.jpg")]
    return files, lambda kind, name: (root / kind / name).read_bytes()


def _in_archive(path: Path) -> Members:
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError) as error:
        raise DataError(f"{path} is no readable .zip file ({error}); get it again.") from error
    names = [PurePosixPath(name) for name in archive.namelist() if name.endswith(".jpg") and "__MACOSX" not in name]
    members = {(name.parent.name, name.name): str(name) for name in names}

    def content(kind: str, name: str) -> bytes:
        try:
            return archive.read(members[kind, name])
        except (zipfile.BadZipFile, zlib.error, EOFError, OSError) as error:
            raise DataError(f"{path}: {members[kind, name]} is damaged ({error}); get the file again.") from error

    return list(members), content
