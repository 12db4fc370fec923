"""Running the grid that is compared: on the CPU, in fp32, on one thread, with a new cache of images."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
import torch

from vpbench.core.errors import UsageError
from vpbench.execution.execute_plan import execute_plan
from vpbench.planning.plan import Plan, make_plan, seeds_of
from vpbench.planning.suites import suite_card
from vpbench.spec.request import Request
from vpbench.spec.run_options import RunOptions
from vpbench.store.store import Store

if TYPE_CHECKING:
    from vpbench.execution.callbacks import Callback

# Sums of floating-point numbers depend on how many threads share them.
THREADS = 1


def plan_grid(suite: str, methods: Sequence[str], datasets: Sequence[str] | None, seeds: Sequence[int] | None) -> Plan:
    """The runs to compare.

    Args:
        suite: data sets and protocol, always in fp32: bf16 gives other numbers on every kind of processor.
        methods: labels, e.g. ``insvp:released``.
        datasets: some of the suite's, None for all.
        seeds: each of them in every cell. None: one run per cell, with the suite's seeds in turn, so that a seed
            that no longer has an effect is noticed.

    Raises:
        VpbenchError: for anything in the request that cannot work.
    """
    card = suite_card(suite)
    if seeds is not None and (not seeds or min(seeds) < 0):
        raise UsageError("--seeds: name at least one, and none below 0, e.g. --seeds 42,44.")
    request = Request(
        methods=tuple(methods),
        suite=suite,
        datasets=None if datasets is None else tuple(datasets),
        precision="fp32",
        device="cpu",
    )
    with tempfile.TemporaryDirectory() as nowhere:
        plan = make_plan(request, Store(nowhere))
    own = seeds_of(card, len(card.seeds))
    runs = [
        replace(run, spec=run.spec.model_copy(update={"seed": seed}))
        for cell, run in enumerate(plan.runs)  # one per cell: the request asks for one seed
        for seed in ([own[cell % len(own)]] if seeds is None else dict.fromkeys(seeds))
    ]
    return replace(plan, runs=runs)


def run_grid(plan: Plan, callback: Callback | None = None, keep: Path | None = None) -> pd.DataFrame:
    """Run all of a plan, whatever was stored or cached before, and return the rows.

    Args:
        callback: receives the progress.
        keep: a results folder for the rows; None: they are not kept.
    """
    with tempfile.TemporaryDirectory() as scratch:
        # Cached images would hide a change in how images are decoded and resized.
        new_cache = _environment("VPBENCH_CACHE", str(Path(scratch) / "images"))
        # The faster matrix product is measured, and two processors of a kind may find different ones.
        default_linear = _environment("VPBENCH_LINEAR", "default")
        with _reproducible(), new_cache, default_linear:
            store = Store(keep or Path(scratch) / "runs")
            return execute_plan(replace(plan, stored=frozenset()), store, RunOptions(save=()), callback)


@contextmanager
def _reproducible() -> Iterator[None]:
    """One thread, and torch's deterministic kernels where there is a choice."""
    threads, strict = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    torch.set_num_threads(THREADS)
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(strict)


@contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
