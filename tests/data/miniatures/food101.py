"""Food-101: meta/train.txt and test.txt with lines ``apple_pie/1005649``, meta/classes.txt, and images/."""

from __future__ import annotations

from pathlib import Path

from . import Content, put

NAMES = ("apple_pie", "baby_back_ribs", "baklava")


def write(folder: Path, content: Content) -> None:
    """The official layout."""
    number = 1005648
    for split, members in content.items():
        lines = []
        for label, data in members:
            number += 1
            lines.append(f"{NAMES[label]}/{number}")
            put(folder / "images" / f"{lines[-1]}.jpg", data)
        put(folder / "meta" / f"{split}.txt", "\n".join(lines))
    put(folder / "meta" / "classes.txt", "\n".join(NAMES))
