"""A grid of tiny runs: its jobs, a callback that remembers, and the comparison of two results folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from command import Outcome, vpbench
from PIL import Image

from vpbench.execution.callbacks import Callback
from vpbench.execution.execute_plan import make_jobs
from vpbench.execution.job import Job
from vpbench.planning.plan import PlannedRun, plan_runs
from vpbench.spec.request import Request
from vpbench.spec.run_options import RunOptions
from vpbench.store.schema import REPRODUCIBLE
from vpbench.store.store import Store


def write_masks(root: Path) -> Path:
    """Noise that is brighter in one half, with a mask of it, 24 x 24 pixels, as PATH/{images,masks}/SPLIT/*.png."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 6), ("val", 2), ("test", 4)):
        for number in range(count):
            mask = np.zeros((24, 24), np.uint8)
            mask[:, 12 * (number % 2) :][:, :12] = 1
            for kind, values in (("images", rng.integers(0, 80, (24, 24, 3)) + 120 * mask[..., None]), ("masks", mask)):
                path = root / kind / split / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(values.astype(np.uint8)).save(path)
    return root


class Heard(Callback):
    """A callback that remembers."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.started_runs: list[str] = []
        self.finished_runs: list[str] = []

    def started(self, run: PlannedRun) -> None:
        self.started_runs.append(run.spec.run_id)

    def finished(self, run: PlannedRun, row: dict[str, Any]) -> None:
        self.finished_runs.append(run.spec.run_id)

    def note(self, text: str) -> None:
        self.notes.append(text)


def jobs_of(
    request: Request, folder: Path, count: int | None = None, *, checkpoint_blocks: bool = False
) -> tuple[list[Job], Store]:
    """The missing runs of a request in a results folder, with all that can be saved."""
    store, save = Store(folder), ("features", "predictions", "curve", "weights")
    options = RunOptions(save=save, threads=1, checkpoint_blocks=checkpoint_blocks, limit=count)
    plan = plan_runs(request, options.model_copy(update={"save": ()}), store)
    return make_jobs(plan, store, options), store


def check_same(folder: Path, inline: Path, count: int = 6) -> None:
    """Rows and files of a folder are those of ``inline``: each run once, equal numbers, equal weights."""
    found, expected = Store(folder).load().set_index("run_id"), Store(inline).load().set_index("run_id")
    assert len(found) == count
    assert found.index.is_unique
    columns = [name for name in REPRODUCIBLE if name != "run_id"]
    pd.testing.assert_frame_equal(found[columns], expected.loc[found.index, columns], check_exact=True)
    for run_id in found.index[found["stage"] != "search"]:  # a trial leaves its row alone
        ours, theirs = (sorted((place / "_artefacts" / run_id).iterdir()) for place in (folder, inline))
        assert [path.name for path in ours] == [path.name for path in theirs]
        (weights,) = (path for path in ours if path.suffix == ".safetensors")
        assert weights.read_bytes() == (inline / "_artefacts" / run_id / weights.name).read_bytes()


def search(images: Path, folder: Path, *more: object) -> Outcome:
    """``vpbench tune`` of linear probing, with one run of what wins."""
    return vpbench(
        "tune", "--methods", "linear", "--data", images, "--image-size", 40, "--epochs", 2, "--seeds", 1, "--save", "weights",
        "--device", "cpu", "--precision", "fp32", "--threads", 1, "--results", folder, *more,
    )  # fmt: skip


def write_space(path: Path) -> Path:
    """Four points, of which some learn more than others."""
    path.write_text(
        'title = "four"\ndescription = "four points"\nsource = "this test"\n'
        '[parameters]\n"recipe.lr" = [1.0, 0.01]\n"recipe.weight_decay" = [0.01, 0.0]\n'
    )
    return path
