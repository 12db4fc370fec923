"""Time of a table over many runs: ``python benchmarks/speed/report_rows.py [--rows 10000] [--kinds KIND ...]``.

Fills stores with synthetic rows and times ``vpbench report`` in its own process, including the start of Python. With a
file per run it is timed *cold*, without a cached copy of the rows, and *warm*, with the one that the first report has
written. In both cases the files are in the disk cache.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from made_up_rows import WORDS, fill, make_rows, say

from vpbench.store.compacting import compact
from vpbench.store.store import Store

TABLE = ("run_id", "status", "method", "backbone", "suite", "dataset", "seed", "epochs", "acc1", "params_trainable")


def report(folder: Path, *options: str) -> float:
    """Seconds of a report in its own process."""
    start = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "vpbench", "report", "--results", str(folder), *options], check=True, stdout=subprocess.DEVNULL
    )
    return time.perf_counter() - start


def load(folder: Path) -> float:
    """Seconds for the ten columns of a table."""
    start = time.perf_counter()
    Store(folder).load(TABLE)
    return time.perf_counter() - start


def spread(seconds: list[float]) -> str:
    return f"{median(seconds):.2f} s ({min(seconds):.2f} to {max(seconds):.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--kinds", nargs="+", choices=WORDS, default=list(WORDS))
    options = parser.parse_args()
    say(f"start of the command alone: {spread([report(Path(), '--help') for _ in range(5)])}")
    rows = make_rows(options.rows, 5)
    for kind in options.kinds:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            fill(folder, rows, kind)
            first = "" if kind == "compacted" else f"cold {report(folder):.2f} s, warm "
            again = spread([report(folder) for _ in range(5)])
            say(f"{len(rows)} rows, {WORDS[kind]}: table {first}{again}; ten columns {spread([load(folder) for _ in range(5)])}")
            if kind == "runs":
                start = time.perf_counter()
                compact(Store(folder))
                say(f"compacting them: {time.perf_counter() - start:.1f} s")


if __name__ == "__main__":
    main()
