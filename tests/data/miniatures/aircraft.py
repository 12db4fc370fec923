"""FGVC-Aircraft: images/, variants.txt and images_variant_SPLIT.txt with lines ``1025794 707-320``."""

from __future__ import annotations

from pathlib import Path

from . import Content, put

NAMES = ("707-320", "Boeing 717", "F/A-18")


def write(folder: Path, content: Content) -> None:
    """The official layout."""
    number = 1025793
    for split, members in content.items():
        lines = []
        for label, data in members:
            number += 1
            lines.append(f"{number:07d} {NAMES[label]}")
            put(folder / "images" / f"{number:07d}.jpg", data)
        put(folder / f"images_variant_{split}.txt", "\n".join(lines))
    put(folder / "variants.txt", "\n".join(NAMES))
