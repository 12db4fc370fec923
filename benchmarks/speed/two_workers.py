"""Speed-up of a grid by two worker processes instead of one, on the CPUs of this machine.

    python benchmarks/speed/two_workers.py [--pairs 3] [--out FILE.json]

Runs the same grid with one worker of one thread and with two of them, each in an empty results folder, alternating
(1, 2, 2, 1, ...) so that a change of load favours neither. The image cache is filled before. Time is that of the whole command,
including the start of processes. Needs two idle cores.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

GRID = ["run", "--methods", "linear,vpt,e2vpt,insvp", "--seeds", "3", "--device", "cpu", "--precision", "fp32", "--save", "none"]


def seconds(workers: int, results: Path, more: list[str]) -> float:
    """Wall time of the grid with a number of workers of one thread each."""
    words = [sys.executable, "-m", "vpbench", *GRID, "--workers", str(workers), "--threads", "1", "--results", str(results)]
    start = time.perf_counter()
    subprocess.run([*words, *more], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=3, help="how often each is measured")
    parser.add_argument("--out", type=Path, help="write the times there, as JSON")
    parser.add_argument("more", nargs="*", help="other options of vpbench run, after --, such as --epochs 10")
    asked = parser.parse_args()
    found: dict[int, list[float]] = {1: [], 2: []}
    with tempfile.TemporaryDirectory() as folder:
        seconds(1, Path(folder, "warm-up"), [*asked.more, "--methods", "linear", "--seeds", "1", "--epochs", "1"])
        for pair in range(asked.pairs):
            for workers in (1, 2) if pair % 2 == 0 else (2, 1):
                found[workers].append(seconds(workers, Path(folder, f"{pair}-{workers}"), asked.more))
                sys.stderr.write(f"pair {pair + 1}, {workers} worker(s): {found[workers][-1]:.1f} s\n")
    ratios = [one / two for one, two in zip(found[1], found[2])]
    outcome = {
        "cores": len(os.sched_getaffinity(0)), "seconds_one": found[1], "seconds_two": found[2], "ratios": ratios,
        "ratio_median": median(ratios),
    }  # fmt: skip
    text = json.dumps(outcome, indent=2)
    sys.stdout.write(text + "\n")
    if asked.out:
        asked.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
