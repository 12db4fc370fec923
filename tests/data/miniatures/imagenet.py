"""ImageNet-1k in torchvision's and in Kaggle's layout, and its four other test sets: a folder of images per class."""

from __future__ import annotations

from pathlib import Path

from . import Content, put

IDS = ("n01440764", "n01443537", "n01484850")
NUMBERS = (0, 1, 2)  # of these classes in ImageNet-1k


def write(folder: Path, content: Content, below: str = "") -> None:
    """train/ and val/ with class folders; what the miniature calls test is val."""
    for split, members in content.items():
        for number, (label, data) in enumerate(members):
            file = f"{IDS[label]}_{number}.JPEG" if split == "train" else f"ILSVRC2012_val_{number + 1:08d}.JPEG"
            put(folder / below / ("val" if split == "test" else split) / IDS[label] / file, data)


def write_kaggle(folder: Path, content: Content) -> None:
    """Test images in one folder, with a list of their classes and boxes."""
    below = "ILSVRC/Data/CLS-LOC"
    write(folder, {"train": content["train"]}, below)
    lines = ["ImageId,PredictionString"]
    for number, (label, data) in enumerate(content["test"]):
        name = f"ILSVRC2012_val_{number + 1:08d}"
        put(folder / below / "val" / f"{name}.JPEG", data)
        lines.append(f"{name},{IDS[label]} 111 108 441 193 {IDS[label]} 1 2 3 4 ")
    put(folder / "LOC_val_solution.csv", "\n".join(lines))


def write_shift(folder: Path, content: Content, inside: str = "", numbered: bool = False, suffix: str = ".jpg") -> None:
    """Test images in class folders, and the file that lies beside them in the archives of ImageNet-A and -R."""
    for number, (label, data) in enumerate(content["test"]):
        place = str(NUMBERS[label]) if numbered else IDS[label]
        put(folder / inside / place / f"0.0{number} _ a.b{suffix}", data)
    if not numbered:
        put(folder / inside / "README.txt", "of the archive")
