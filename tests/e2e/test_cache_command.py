"""``vpbench data cache``: what the caches take, and how they are emptied."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command import vpbench

from vpbench.data.cache import prepare
from vpbench.data.caches import activation_store
from vpbench.data.raw import PixelSplit, RawData
from vpbench.spec.run_spec import Preprocess


@pytest.fixture
def filled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder with the images of two splits, and activations of one batch."""
    monkeypatch.setenv("VPBENCH_CACHE", str(tmp_path))
    pixels = np.random.default_rng(0).integers(0, 256, (6, 20, 20), dtype=np.uint8)
    parts = {"train": pixels[:4], "val": pixels[:0], "test": pixels[4:]}
    raw = RawData.of(["a", "b"], {name: PixelSplit(part, np.arange(len(part)) % 2, name) for name, part in parts.items()})
    prepare(raw, Preprocess(), 16)
    activation_store().write("batch", bytes(1000))
    return tmp_path


def use() -> dict[str, Any]:
    return {one["kind"]: one for one in json.loads(vpbench("data", "cache", "--json").out)}


def test_shown_and_emptied(filled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = use()
    assert (found["images"]["entries"], found["activations"]["entries"]) == (2, 1)
    assert found["images"]["size"] > 6 * 16 * 16 * 3
    assert (found["activations"]["size"], found["activations"]["limit"]) == (1024, 20 << 30)
    shown = vpbench("data", "cache").out
    assert "1.0 kB of at most 21.5 GB" in shown and str(filled / "activations") in shown
    done = vpbench("data", "cache", "--clear", "activations")
    assert done.out.startswith("1.0 kB removed.")
    assert (use()["images"]["entries"], use()["activations"]["entries"]) == (2, 0)
    vpbench("data", "cache", "--clear", "all")
    assert use()["images"]["entries"] == 0
    monkeypatch.setenv("VPBENCH_ACTIVATIONS", "much")
    assert vpbench("data", "cache").code == 2
    done = vpbench("run", "--methods", "linear", "--datasets", "digits", "--dry-run")
    assert (done.code, "VPBENCH_ACTIVATIONS=much: a size such as" in done.err) == (2, True)


def test_an_unknown_kind(filled: Path) -> None:
    done = vpbench("data", "cache", "--clear", "image")
    assert done.code == 2
    assert "images" in done.err
