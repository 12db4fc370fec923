"""Oxford-IIIT Pets: images/, annotations/trainval.txt and test.txt with lines ``Abyssinian_100 1 1 1``."""

from __future__ import annotations

from pathlib import Path

from . import Content, put

NAMES = ("Abyssinian", "american_bulldog", "american_pit_bull_terrier")
HEAD = "#Image CLASS-ID SPECIES BREED ID\n"


def write(folder: Path, content: Content) -> None:
    """The official layout."""
    number = 0
    for split, members in content.items():
        lines = []
        for label, data in members:
            number += 1
            lines.append(f"{NAMES[label]}_{number} {label + 1} {1 if label == 0 else 2} 1")
            put(folder / "images" / f"{NAMES[label]}_{number}.jpg", data)
        name = "trainval" if split == "train" else split
        put(folder / "annotations" / f"{name}.txt", (HEAD if split == "train" else "") + "\n".join(lines))
