"""Runs that are quick: their images, their store, no measuring."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vpbench.execution import execute as worker
from vpbench.store.store import Store


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setenv("VPBENCH_CACHE", str(tmp_path / "cache"))
    for name in ("measure_training", "measure_inference", "count_operations"):
        monkeypatch.setattr(worker, name, lambda *_: {})
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for split in ("train", "val", "test"):
        for kind in range(2):
            folder = tmp_path / "noise" / split / f"c{kind}"
            folder.mkdir(parents=True)
            for index in range(3):
                Image.fromarray(rng.integers(0, 256, (20, 20, 3), np.uint8)).save(folder / f"{index}.png")
    return tmp_path / "noise"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "runs")
