"""Breaks vpbench on purpose and runs the gate: ``python breaks.py FOLDER [NAME ...]``.

FOLDER receives a miniature of the gate's grid: noise images, a suite, a baseline of two methods and two seeds on the built-in
backbone. Each case is a process of its own, forked from this one, which has imported everything and computed nothing. Without
names, all cases run. The result is JSON on stdout: {case: {"code": exit code, "err": stderr, "found": what --json said}}.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import shutil
import sys
import traceback
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from vpbench.cli.app import main
from vpbench.core import cards
from vpbench.data.batches import Normaliser
from vpbench.execution import execute as worker
from vpbench.interface import Tokens
from vpbench.measure import operations, timing
from vpbench.models.registry import method_class
from vpbench.training import fit

SUITE = """
base = "ci"
title = "tiny"
description = "noise of three colours"
datasets = ["noise"]
seeds = [42, 44]
shots = 8

[training]
epochs = 1
"""
CARD = """
title = "Noise"
description = "Noise of three colours"
group = "natural"
source = "folder"
options = {{ path = "{path}" }}
classes = 3
n_train = 24
n_val = 6
n_test = 12
image_size = "24x24"
licence = "none"
origin = "drawn for a test"
"""


# Imported here once, and not in every case.
LATER = (
    "fvcore.nn", "pyarrow.parquet", "scipy.special", "torch.utils.benchmark", "vpbench.checking.regressions",
    "vpbench.checking.gate_runs",
    "vpbench.checking.gate_report", "vpbench.execution.run_progress", "vpbench.data.sources.folder", "vpbench.measure.operations",
)  # fmt: skip


def nothing() -> None:
    """The code as it is."""


def prompts_before_the_class_token() -> None:
    """The sequence becomes [prompts | class | patches], and everything else is unchanged."""

    def with_prompts(self: Tokens, prompts: torch.Tensor) -> Tokens:
        tokens = replace(self, prompts=prompts.to(self.image_tokens.dtype))
        return tokens.with_values(torch.cat([tokens.prompt_tokens, tokens.prefix_tokens, tokens.patch_tokens], dim=1))

    Tokens.with_prompts = with_prompts  # type: ignore[method-assign]


def specific_prompter_not_optimized() -> None:
    """InsVP's specific prompter requires gradients and is counted, but the optimizer never gets it."""
    whole = fit.make_optimizer

    def without(trainable: list[tuple[str, nn.Parameter]], *more: Any) -> torch.optim.Optimizer:
        kept = [(name, tensor) for name, tensor in trainable if not name.startswith("own.specific")]
        assert len(kept) < len(trainable), "nothing was left out"
        return whole(kept, *more)

    fit.make_optimizer = without


def mean_and_std_swapped() -> None:
    """Where images are normalised; the specification still has them right."""

    class Swapped(Normaliser):
        def __init__(self, mean: Any, std: Any, device: Any = "cpu") -> None:
            super().__init__(std, mean, device)

    worker.Normaliser = Swapped  # type: ignore[misc]


def order_seed_ignored() -> None:
    """The order of the training images is the same for every seed."""
    whole = fit.Trainer.__init__

    def init(self: fit.Trainer, *words: Any, **named: Any) -> None:
        whole(self, *words, **named)
        self._order.manual_seed(42)

    fit.Trainer.__init__ = init  # type: ignore[method-assign]


def initial_seed_ignored() -> None:
    """The initial values are the same for every seed."""
    whole = torch.manual_seed
    torch.manual_seed = lambda _seed: whole(42)


def seed_ignored() -> None:
    """The first seed of the suite stands in for all."""
    order_seed_ignored()
    initial_seed_ignored()


def seed_not_set() -> None:
    """Every run starts from another random state."""
    torch.manual_seed = lambda _seed: torch.default_generator.seed()


def prompt_of_one_block_dropped() -> None:
    """VPT's third block gets no prompts; its parameters are still there."""
    vpt = method_class("vpt")
    whole = vpt.before_block

    def before_block(self: Any, block: int, tokens: Tokens, context: Any) -> Tokens:
        return Tokens(tokens.image_tokens, tokens.prefix) if block == 2 else whole(self, block, tokens, context)

    vpt.before_block = before_block  # type: ignore[method-assign]


ALL = "vpt,insvp"
# What to do first, the methods, and the seeds (none: those that the gate chooses, 42 for insvp and 44 for vpt).
CASES: dict[str, tuple[Callable[[], None], str, str]] = {
    "unbroken": (nothing, ALL, ""),
    "prompts_before_the_class_token": (prompts_before_the_class_token, "vpt", ""),
    "specific_prompter_not_optimized": (specific_prompter_not_optimized, "insvp", ""),
    "mean_and_std_swapped": (mean_and_std_swapped, "vpt", ""),
    "order_seed_ignored": (order_seed_ignored, "vpt", "44"),
    "initial_seed_ignored": (initial_seed_ignored, "vpt", "44"),
    "seed_ignored": (seed_ignored, ALL, ""),
    "seed_not_set": (seed_not_set, "vpt", ""),
    "prompt_of_one_block_dropped": (prompt_of_one_block_dropped, "vpt", ""),
}


def prepare(folder: Path) -> None:
    """Images, cards, and measurements that take no time."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 8), ("val", 2), ("test", 4)):
        for kind in range(3):
            place = folder / "noise" / split / f"c{kind}"
            place.mkdir(parents=True)
            for index in range(count):
                pixels = rng.integers(0, 150, (24, 24, 3))
                pixels[..., kind] += 60
                Image.fromarray(pixels.astype(np.uint8)).save(place / f"{index}.png")
    shutil.copytree(str(files("vpbench.benchmarks")), folder / "cards")
    (folder / "cards" / "suites" / "tiny.toml").write_text(SUITE)
    (folder / "cards" / "datasets" / "noise.toml").write_text(CARD.format(path=(folder / "noise").as_posix()))
    cards._folder = lambda name: folder / "cards" / name
    timing.SECONDS, timing.THROUGHPUT_BATCH = 0.001, 2
    operations._fvcore_macs = lambda _shell: None  # a second in every run


def gate(break_it: Callable[[], None], words: list[str], log: Path) -> tuple[int, str, str]:
    """``vpbench check`` in a forked process after ``break_it``: exit code, stdout and stderr."""
    out, err = log.with_suffix(".out"), log.with_suffix(".err")
    child = os.fork()
    if child == 0:
        code = 99
        with out.open("w") as first, err.open("w") as second, redirect_stdout(first), redirect_stderr(second):
            try:
                break_it()
                sys.argv = ["vpbench", "check", *words]
                main()
            except SystemExit as stop:
                code = int(stop.code or 0)
            except BaseException:
                traceback.print_exc()
        os._exit(code)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status), out.read_text(), err.read_text()


def run(folder: Path, names: list[str]) -> dict[str, dict[str, Any]]:
    """All cases after their baseline."""
    prepare(folder)
    for module in LATER:
        importlib.import_module(module)
    gc.collect()
    gc.freeze()  # else every measurement in a fork would go through all that was imported
    baseline = ["--baseline", str(folder / "tiny.parquet")]
    code, _, err = gate(
        nothing, [*baseline, "--suite", "tiny", "--methods", ALL, "--update", "--seeds", "42,44"], folder / "update"
    )
    if code:
        raise SystemExit(f"no baseline, exit {code}: {err}")
    found = {}
    for name in names or CASES:
        break_it, methods, seeds = CASES[name]
        words = [*baseline, "--methods", methods, "--json", *(["--seeds", seeds] if seeds else [])]
        code, out, err = gate(break_it, words, folder / name)
        found[name] = {"code": code, "err": err, "found": json.loads(out) if out else None}
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps(run(Path(sys.argv[1]), sys.argv[2:]), indent=2))  # noqa: T201
