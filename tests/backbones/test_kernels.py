"""Which matrix product a machine uses: measured once, kept, and the same for all processes."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from vpbench.backbones import kernels
from vpbench.backbones.family import adapter_for
from vpbench.backbones.frozen_linear import FrozenLinear
from vpbench.backbones.kernels import linear_kernel


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VPBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("VPBENCH_LINEAR", raising=False)
    return tmp_path / "cache" / "kernels.json"


def test_measured_once(cache: Path) -> None:
    before = torch.random.get_rng_state()
    first = linear_kernel(32)
    assert torch.equal(torch.random.get_rng_state(), before)
    (name,) = json.loads(cache.read_text())
    assert "width 32" in name and "torch" in name
    other = {"default": "onednn", "onednn": "default"}[first]
    cache.write_text(json.dumps({name: other}))
    assert linear_kernel(32) == other  # read, not measured
    linear_kernel(48)
    assert len(json.loads(cache.read_text())) == 2
    assert {path.name for path in cache.parent.iterdir()} <= {"kernels.json", "kernels.lock"}


@pytest.mark.parametrize("asked", ["default", "onednn"])
def test_overruled(asked: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VPBENCH_LINEAR", asked)
    assert linear_kernel(32) == asked or not kernels._has_onednn()
    assert not cache.exists()


@pytest.mark.parametrize("damage", ["{", "[]", '{"a": 3}'])
def test_damaged_choices_are_made_again(damage: str, cache: Path) -> None:
    cache.parent.mkdir()
    cache.write_text(damage)
    assert linear_kernel(32) in ("default", "onednn")
    assert any("width 32" in name for name in json.loads(cache.read_text()))


def test_a_cache_that_cannot_be_written(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What could not be stored is not used: two processes might measure different ones, and their predictions differ."""
    monkeypatch.setattr(kernels, "_measured", lambda width: "onednn")
    cache.parent.write_text("a file")
    assert linear_kernel(32) == "default"


def test_layers_of_a_backbone(monkeypatch: pytest.MonkeyPatch) -> None:
    from tiny_vits import tiny_vit

    monkeypatch.setenv("VPBENCH_LINEAR", "onednn")
    adapter = adapter_for(tiny_vit())
    layers = [module for module in adapter.modules() if isinstance(module, FrozenLinear)]
    assert len(layers) == 8
    for device, precision, expected in (("cpu", "fp32", "onednn"), ("cpu", "bf16", "default"), ("cuda", "fp32", "default")):
        adapter.use_fastest_kernels(device, precision)
        assert {layer.kernel for layer in layers} == {adapter.linear_kernel} == {expected}


def test_all_processes_take_what_the_first_one_found(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one that began to wait before anything was known."""
    found = iter(["onednn", "default"])
    both = threading.Barrier(2)
    read = kernels._read

    def read_together(file: Path) -> dict[str, str]:
        kept = read(file)
        with suppress(threading.BrokenBarrierError):
            both.wait(timeout=0.5)
        return kept

    monkeypatch.setattr(kernels, "_measured", lambda width: next(found))
    monkeypatch.setattr(kernels, "_read", read_together)
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(linear_kernel, (32, 32))) == ["onednn", "onednn"]
    assert next(found) == "default", "it was measured twice"
