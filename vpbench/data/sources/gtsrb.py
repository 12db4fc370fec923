"""German Traffic Sign Recognition Benchmark: 43 signs, filmed from a car, 30 frames of each sign that was passed (a track)."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from vpbench.core.errors import DataError
from vpbench.data.raw import RawData
from vpbench.data.sources._listed import Key, from_lists, nested, read_lines
from vpbench.data.splitting import hold_out

CLASSES = 43
SEED = 0
VAL_SHARE = 0.1

# "fixed" is GTSRB-Training_fixed.zip, which torchvision takes; "final" GTSRB_Final_Training_Images.zip, 39,209 images.
TRAINING = {"fixed": "Training", "final": "Final_Training/Images"}
TEST = "Final_Test/Images"
TEST_LABELS = "GT-final_test.csv"


def read(folder: Path, release: str = "fixed") -> RawData:
    """Training images with a validation part of whole tracks, and the final test images.

    Frames of a track are near-duplicates, so whole tracks are held out: a tenth of the tracks of every class, rounded, at least
    one.

    Args:
        folder: ``GTSRB/`` or its parent. Labels of the test images are in the parent (as torchvision unpacks them), in
            ``GTSRB/``, or beside the images.
        release: which training images, "fixed" (26,640) or "final" (39,209).

    Raises:
        DataError: for files that are missing or inconsistent.
    """
    folder = Path(folder)
    if release not in TRAINING:
        raise DataError(f"{folder}: GTSRB has no release '{release}'; choose one of {', '.join(TRAINING)}.")
    base = nested(folder, "GTSRB")
    train = _training(base, TRAINING[release])
    places = [folder / TEST_LABELS, base / TEST_LABELS, base / "Final_Test" / TEST_LABELS, base / TEST / TEST_LABELS]
    test = _members(base, next((file for file in places if file.is_file()), places[0]), TEST)
    kept, held_out, tracks = _by_track(base, train)
    raw = from_lists(base, {"train": kept, "val": held_out, "test": test}, classes=CLASSES)
    note = f"Validation is {tracks[0]} of {tracks[1]} training tracks ({len(held_out)} images), drawn with a fixed seed."
    return replace(raw, note=" ".join(filter(None, (note, raw.note))))


def _training(base: Path, place: str) -> list[tuple[str, Key]]:
    """All training images, of the lists ``00000/GT-00000.csv``."""
    if not (base / place).is_dir():
        raise DataError(f"{base / place} is missing; the copy of the data set is incomplete.")
    folders = sorted(item.name for item in (base / place).iterdir() if item.is_dir() and item.name.isdecimal())
    return [member for name in folders for member in _members(base, base / place / name / f"GT-{name}.csv", f"{place}/{name}")]


def _members(base: Path, file: Path, below: str) -> list[tuple[str, Key]]:
    """A list's images: columns ``Filename`` and ``ClassId``, between semicolons."""
    rows = csv.DictReader(read_lines(file), delimiter=";", skipinitialspace=True)
    for column in ("Filename", "ClassId"):
        if column not in (rows.fieldnames or ()):
            raise DataError(f"{file} has no column '{column}'; it must be the list with classes. Get it again.")
    members: list[tuple[str, Key]] = []
    for row in rows:
        if not row["Filename"] or not (row["ClassId"] or "").isdecimal():
            raise DataError(f"{file}: '{row['Filename']}' has class '{row['ClassId']}'; it must be 0 to {CLASSES - 1}.")
        members.append((f"{below}/{row['Filename']}", int(row["ClassId"])))
    return members


def _by_track(
    base: Path, members: Sequence[tuple[str, Key]]
) -> tuple[list[tuple[str, Key]], list[tuple[str, Key]], tuple[int, int]]:
    """Members kept and members held out, by track; number of tracks held out and in total.

    Tracks are numbered within a class: ``Training/00003/00007_00029.ppm`` is the last frame of class 3's eighth.
    """
    tracks: dict[tuple[str, str], int] = {}
    of = []
    for path, _ in members:
        named = re.fullmatch(r"(.*)/(\d+)_\d+\.ppm", path)
        if not named:
            raise DataError(f"{base / path}: a training image must be called TRACK_FRAME.ppm; get the data set again.")
        of.append(tracks.setdefault((named[1], named[2]), len(tracks)))
    classes = np.zeros(len(tracks), np.int64)
    for track, (_, key) in zip(of, members):
        classes[track] = int(key)
    held = set(hold_out(classes, VAL_SHARE, SEED)[1].tolist()) if tracks else set()
    kept = [member for track, member in zip(of, members) if track not in held]
    return kept, [member for track, member in zip(of, members) if track in held], (len(held), len(tracks))
