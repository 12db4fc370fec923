"""Time of a page over many runs: ``python benchmarks/speed/page_rows.py [--rows 10000] [--seeds 5] [--kinds KIND ...]``.

Fills stores with synthetic rows and learning curves for one run in ten and writes their pages, each in its own process,
including the start of Python. With a file per run the first page reads every file; the next one reads the cached copy
of the rows.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from made_up_rows import WORDS, fill, make_rows, say

_CURVE = "phase,epoch,epochs,lr,train_loss,val_acc1\n" + "".join(f"train,{at},100,0.1,{4 / at},\n" for at in range(1, 101))


def write_page(results: Path, page: Path, *options: str) -> str:
    """Wall and CPU seconds of a page."""
    command = [sys.executable, "-m", "vpbench", "report", "--results", str(results), "--html", str(page), *options]
    wall, used = time.perf_counter(), _children()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return f"{time.perf_counter() - wall:.1f} s ({_children() - used:.1f} s of the processor)"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--seeds", type=int, default=5, help="runs of each specification")
    parser.add_argument("--kinds", nargs="+", choices=WORDS, default=list(WORDS))
    options = parser.parse_args()
    rows = make_rows(options.rows, options.seeds)
    for kind in options.kinds:
        with tempfile.TemporaryDirectory() as scratch:
            runs, page = Path(scratch, "runs"), Path(scratch, "page")
            store = fill(runs, rows, kind)
            for row in rows[::10]:
                store.write_artefact(row["run_id"], "curve.csv", lambda path: path.write_text(_CURVE))
            parts = [f"first {write_page(runs, page)}", f"again {write_page(runs, page)}"]
            pages = sum(1 for _ in page.rglob("*.html"))
            size = sum(path.stat().st_size for path in page.rglob("*") if path.is_file()) / 2**20
            say(f"{len(rows)} rows, {WORDS[kind]}: {', '.join(parts)}; {pages} pages, {size:.0f} MiB")


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
