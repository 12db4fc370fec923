"""GTSRB: PPM images in folders of classes with a CSV each, and a CSV for the test images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from . import encoded, picture, put

HEADER = "Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId\r\n"

# Class, file name and PPM file of an image.
Sign = tuple[int, str, bytes]


def write(folder: Path, train: Sequence[Sign], test: Sequence[Sign], place: str = "Training", labels: str = "") -> None:
    """The official layout in ``folder/GTSRB``.

    Args:
        place: ``Training``, or ``Final_Training/Images`` in the final release.
        labels: folder of GT-final_test.csv; torchvision unpacks it beside GTSRB.
    """
    lists: dict[int, list[str]] = {}
    for label, name, data in train:
        put(folder / "GTSRB" / place / f"{label:05d}" / name, data)
        lists.setdefault(label, []).append(_row(name, label))
    for label, rows in lists.items():
        put(folder / "GTSRB" / place / f"{label:05d}" / f"GT-{label:05d}.csv", HEADER + "".join(rows))
    for _, name, data in test:
        put(folder / "GTSRB" / "Final_Test" / "Images" / name, data)
    put(folder / labels / "GT-final_test.csv", HEADER + "".join(_row(name, label) for label, name, _ in test))


def signs(tracks: Sequence[int] = (12, 1, 5), frames: int = 3, test: int = 2) -> tuple[list[Sign], list[Sign]]:
    """Training signs, ``tracks`` of each class with ``frames`` frames each, and ``test`` test signs of each."""
    train = [
        (label, f"{track:05d}_{frame:05d}.ppm", encoded(picture(label, "train", track), "ppm"))
        for label, count in enumerate(tracks)
        for track in range(count)
        for frame in range(frames)
    ]
    order = [label for _ in range(test) for label in range(len(tracks))]
    tests = [(label, f"{place:05d}.ppm", encoded(picture(label, "test", place), "ppm")) for place, label in enumerate(order)]
    return train, tests


def _row(name: str, label: int) -> str:
    return f"{name};20;16;5;5;15;11;{label}\r\n"
