"""DTD: labels/train1.txt, val1.txt and test1.txt with lines ``banded/banded_0002.jpg``, and images/."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from . import Content, put

NAMES = ("banded", "blotchy", "braided")


def write(folder: Path, content: Content, names: Sequence[str] = NAMES, partition: int = 1) -> None:
    """The official layout, one partition of it."""
    number = 0
    for split, members in content.items():
        lines = []
        for label, data in members:
            number += 1
            lines.append(f"{names[label]}/{names[label]}_{number:04d}.jpg")
            put(folder / "images" / lines[-1], data)
        put(folder / "labels" / f"{split}{partition}.txt", "".join(f"{line}\n" for line in lines))
