"""Tiny data, a store with two finished runs, and measuring that takes no time."""

from __future__ import annotations

import importlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from command import CHECKOUT, UNMEASURED, vpbench, write_images
from filelock import FileLock

from vpbench.execution import execute as worker
from vpbench.measure import timing


@pytest.fixture(scope="session", autouse=True)
def quick(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """An image cache of our own, and one measurement per figure instead of 0.2 s of them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VPBENCH_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.delenv("VPBENCH_WEIGHTS", raising=False)
        patch.setenv("COLUMNS", "80")
        patch.setattr(timing, "SECONDS", 0.001)
        yield


@pytest.fixture
def unmeasured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs without latency, memory and operation counts, for tests of what happens around a run."""
    for name in ("measure_training", "measure_inference", "count_operations"):
        monkeypatch.setattr(worker, name, lambda *_: {})


@pytest.fixture
def workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Workers that do not measure. Python imports ``sitecustomize`` when it starts."""
    threads = torch.get_num_threads()
    site = tmp_path / "start"
    site.mkdir()
    (site / "sitecustomize.py").write_text(UNMEASURED)
    monkeypatch.setenv("PYTHONPATH", str(site))
    monkeypatch.syspath_prepend(str(CHECKOUT))
    monkeypatch.syspath_prepend(str(site))
    yield
    torch.set_num_threads(threads)


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """A folder that the first of pytest's processes to need it makes for all of them."""
    root = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent
    folder = root / "made_once" / name
    folder.parent.mkdir(exist_ok=True)
    with FileLock(folder.with_suffix(".lock")):
        if not folder.exists():
            make(folder.with_suffix(".part"))
            folder.with_suffix(".part").rename(folder)
    return folder


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """36 images of three classes in three splits."""
    return made_once(tmp_path_factory, "grey", write_images)


@pytest.fixture(scope="session")
def command(images: Path) -> list[str]:
    """``vpbench run`` on these images for an epoch; what it writes goes to the folder that is appended."""
    return [
        "run",
        "--data",
        str(images),
        "--image-size",
        "40",
        "--epochs",
        "1",
        "--device",
        "cpu",
        "--precision",
        "fp32",
        "--results",
    ]


@pytest.fixture(scope="session")
def finished(quick: None, command: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of two methods, measured and with everything that can be saved. Not to be changed: see ``results``."""

    def run(folder: Path) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        done = vpbench(*command, folder, "--methods", "linear,vpt", "--save", "features,predictions,curve,weights")
        assert done.code == 0, done.err
        assert "2 rows" in done.out

    return made_once(tmp_path_factory, "finished", run)


@pytest.fixture
def results(finished: Path, tmp_path: Path) -> Path:
    """A copy of ``finished``."""
    return Path(shutil.copytree(finished, tmp_path / "results"))


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str, str], None]:
    """Installs a module with a method as another distribution would: ``install(method name, class name, source)``."""
    site = tmp_path / "site"

    def put(name: str, kind: str, source: str) -> None:
        information = site / f"{name}-1.0.dist-info"
        information.mkdir(parents=True)
        (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (information / "entry_points.txt").write_text(f"[vpbench.methods]\n{name} = {name}_of_others:{kind}\n")
        (site / f"{name}_of_others.py").write_text(source)
        importlib.invalidate_caches()

    monkeypatch.syspath_prepend(str(site))
    return put


@pytest.fixture(scope="session")
def other_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A weight file of ViT-Tiny, which fits no other architecture."""
    import timm
    from safetensors.torch import save_file

    path = tmp_path_factory.mktemp("weights") / "vit_tiny.safetensors"
    with torch.random.fork_rng(devices=[]):
        save_file(timm.create_model("vit_tiny_patch16_224").state_dict(), path)
    return path
