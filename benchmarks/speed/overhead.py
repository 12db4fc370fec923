"""Overhead of a grid: time outside the model, in loading, planning, batches, logging and storing.

    python benchmarks/speed/overhead.py [--methods linear,vpt] [--epochs 12] [--threads 1] [--out FILE.json]

Runs the suite `mini` in this process, with an empty results folder and an empty image cache, and times every outermost
call of the model, of its backward pass and of the optimizer. The time of measurements (latency, throughput, memory,
operations) is reported separately, because they run the model for a fixed time. The clock starts before vpbench and
torch are imported.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

START = time.perf_counter()


class Clock:
    """Seconds by kind of call; a nested call is counted for the outer one."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._inside = False

    def timed(self, owner: Any, name: str, kind: str) -> None:
        """Times all further calls of ``owner.name``."""
        call: Callable[..., Any] = getattr(owner, name)

        @wraps(call)
        def counted(*args: Any, **keywords: Any) -> Any:
            if self._inside:
                return call(*args, **keywords)
            self._inside, begin = True, time.perf_counter()
            try:
                return call(*args, **keywords)
            finally:
                self._inside = False
                self.seconds[kind] = self.seconds.get(kind, 0.0) + time.perf_counter() - begin

        setattr(owner, name, counted)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--methods", default="linear,vpt,e2vpt,insvp,viapt,ivpt")
    parser.add_argument("--epochs", type=int, help="instead of the suite's")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="write the seconds there, as JSON")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["VPBENCH_CACHE"] = str(Path(folder, "cache"))
        import torch

        import vpbench
        from vpbench.execution import execute as worker
        from vpbench.models.prompted import PromptedModel

        clock = Clock()
        for name in ("count_operations", "measure_training", "measure_inference"):
            clock.timed(worker, name, "measuring")
        for owner, name in (
            (PromptedModel, "__call__"), (PromptedModel, "training_loss"), (PromptedModel, "features"), (PromptedModel, "frozen"),
            (torch.Tensor, "backward"), (torch.optim.AdamW, "step"), (torch.optim.SGD, "step"),
        ):  # fmt: skip
            clock.timed(owner, name, "model")
        imported = time.perf_counter() - START
        frame = vpbench.run(asked.methods, "mini", epochs=asked.epochs, threads=asked.threads, results=Path(folder, "runs"))
    whole = time.perf_counter() - START
    model, measuring = clock.seconds["model"], clock.seconds["measuring"]
    overhead = whole - model - measuring
    outcome = {
        "runs": len(frame), "seconds": whole, "model": model, "measuring": measuring, "imports": imported, "rest": overhead,
        "rest_share": overhead / whole, "rest_share_without_measuring": overhead / (whole - measuring),
    }  # fmt: skip
    text = json.dumps(outcome, indent=2)
    sys.stdout.write(text + "\n")
    if asked.out:
        asked.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
