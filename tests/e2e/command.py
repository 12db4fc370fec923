"""The command line, called from Python: arguments in, exit code, stdout and stderr out. Also its data and its traces."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from vpbench.cli.app import main

CHECKOUT = Path(__file__).resolve().parents[2]

# What the test of this process does to measuring, for the processes that vpbench starts.
UNMEASURED = """
from vpbench.execution import execute as worker
for name in ("measure_training", "measure_inference", "count_operations"):
    setattr(worker, name, lambda *_: {})
"""

# A folder's files: content and time of the last change.
Traces = dict[str, tuple[bytes, int]]


@dataclass(frozen=True)
class Outcome:
    """How a command ended."""

    code: int
    out: str
    err: str


REPEATABLE = ("--set", "--executor-option", "--tolerance")


def overridden(words: tuple[object, ...]) -> list[str]:
    """The words of a command line in which later options replace those before them, which fixtures give; the command itself
    refuses an option that is given twice."""
    found = [str(word) for word in words]
    for option in {word for word in found if word.startswith("--") and word not in REPEATABLE}:
        while found.count(option) > 1:
            place = found.index(option)
            has_value = place + 1 < len(found) and not found[place + 1].startswith("--")
            del found[place : place + 1 + has_value]
    return found


def vpbench(*words: object, as_given: bool = False) -> Outcome:
    """Run the command in this process, where torch is imported already; ``as_given``: without :func:`overridden`."""
    out, err = io.StringIO(), io.StringIO()
    given = ["vpbench", *(map(str, words) if as_given else overridden(words))]
    with mock.patch.object(sys, "argv", given), redirect_stdout(out), redirect_stderr(err):
        try:
            main()
        except SystemExit as stop:
            code = int(stop.code or 0)
    return Outcome(code, out.getvalue(), err.getvalue())


def start(*words: object) -> subprocess.Popen[str]:
    """Start the command as a process of its own, for what only a process can show."""
    return subprocess.Popen(
        [sys.executable, "-m", "vpbench", *overridden(words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )


def environment() -> dict[str, str]:
    """For processes that have to find vpbench in this checkout."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(CHECKOUT), os.environ.get("PYTHONPATH")]))}


def write_images(root: Path, classes: int = 3, counts: tuple[int, int, int] = (6, 2, 4)) -> Path:
    """Noise of another brightness for each class, 24 x 24 pixels, as PATH/SPLIT/CLASS/*.png; counts are per class."""
    rng = np.random.default_rng(0)
    for split, count in zip(("train", "val", "test"), counts):
        for kind in range(classes):
            folder = root / split / f"c{kind}"
            folder.mkdir(parents=True)
            for index in range(count):
                pixels = (rng.integers(0, 40, (24, 24, 3)) + 200 * kind // max(1, classes - 1)).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{index}.png")
    return root


def traces(folder: Path) -> Traces:
    """All files of a folder as they are now; none when it does not exist."""
    return {
        str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def row_files(folder: Path) -> list[Path]:
    """The files of stored rows; pathlib also finds hidden ones, which are being written or were when their writer was killed."""
    return sorted(path for path in folder.glob("*.parquet") if not path.name.startswith("."))


def rows(folder: Path) -> pd.DataFrame:
    """The stored rows, read without vpbench."""
    return pd.concat([pd.read_parquet(path) for path in row_files(folder)], ignore_index=True)


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """A file system of a few bytes, ``160k`` say, while the block runs; skips the test where none can be had."""
    folder.mkdir()
    mounted = shutil.which("mount") and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], capture_output=True
    )
    if not mounted or mounted.returncode:
        pytest.skip("a full disk cannot be had here: mounting a tmpfs needs root; NOT TESTED")
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


def leave(folder: Path, room: int) -> Path:
    """Fill a disk until about ``room`` bytes are free."""
    free = shutil.disk_usage(folder).free
    filler = folder / "filler"
    filler.write_bytes(os.urandom(max(0, free - room)))
    return filler
