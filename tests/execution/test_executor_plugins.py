"""An executor of another distribution: found by its entry point, and used by name with its own options."""

from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import vpbench
from vpbench.core.errors import UsageError
from vpbench.execution.executor import Executor, executor_registry, get_executor, make_executor
from vpbench.spec.run_options import RunOptions

SOURCE = """
from vpbench.execution.executor import Executor
from vpbench.execution.run_job import run_unclaimed_job

class Backwards(Executor):
    def __init__(self, note="none", retries=1):
        self.words, self.retries = note, retries

    def __call__(self, jobs, store, callback, opened):
        callback.note(f"{self.words}, {self.retries}")
        for job in reversed(jobs):
            yield run_unclaimed_job(job, store, "here", opened, callback, lambda: self.pausing)
"""


@pytest.fixture(autouse=True)
def distribution(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What pip leaves of a distribution with the executors ``backwards`` and ``wrong``."""
    folder = tmp_path / "site" / "backwards-1.0.dist-info"
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: backwards\nVersion: 1.0\n")
    (folder / "entry_points.txt").write_text(
        "[vpbench.executors]\nbackwards = backwards_of_others:Backwards\nwrong = backwards_of_others:run_unclaimed_job\n"
    )
    (tmp_path / "site" / "backwards_of_others.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.setenv("VPBENCH_CACHE", str(tmp_path / "cache"))
    importlib.invalidate_caches()


def test_it_is_found_beside_those_of_vpbench() -> None:
    assert {"inline", "local", "ray", "slurm", "backwards"} <= set(executor_registry().names())
    found = make_executor(RunOptions(executor="backwards", retries=4, executor_options={"note": "hello"}))
    assert isinstance(found, Executor)
    assert (type(found).__name__, vars(found)) == ("Backwards", {"words": "hello", "retries": 4})


def test_it_refuses_what_its_class_does_not_take() -> None:
    with pytest.raises(UsageError, match="unknown option of the executor backwards 'speed'"):
        get_executor("backwards", speed=3)
    with pytest.raises(UsageError, match="is not a subclass of Executor"):
        get_executor("wrong")


@pytest.mark.sweep
def test_it_does_the_runs(tmp_path: Path) -> None:
    from vpbench.execution.callbacks import Callback

    for split in ("train", "val", "test"):
        for kind in range(2):
            folder = tmp_path / "images" / split / f"c{kind}"
            folder.mkdir(parents=True)
            for index in range(2):
                pixels = np.random.default_rng([kind, index]).integers(0, 256, (20, 20, 3), np.uint8)
                Image.fromarray(pixels).save(folder / f"{index}.png")

    class Notes(Callback):
        def __init__(self) -> None:
            self.notes: list[str] = []

        def note(self, text: str) -> None:
            self.notes.append(text)

    notes = Notes()
    frame = vpbench.run(
        "linear", data=tmp_path / "images", image_size=32, epochs=1, seeds=2, device="cpu", precision="fp32", save=(),
        results=tmp_path / "runs", executor="backwards", executor_options={"note": "from elsewhere"}, callback=notes,
    )  # fmt: skip
    assert "from elsewhere, 1" in notes.notes
    assert frame["status"].tolist() == ["ok", "ok"]
    assert frame.sort_values("started_at")["seed"].tolist() == [44, 42]
