"""A tiny grid, done inline for comparison, and processes that do not measure times."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "e2e"))

from command import CHECKOUT, write_images
from slurm_cluster import missing_programs, slurm
from tiny_grid import jobs_of, write_masks

from vpbench.execution.callbacks import Callback
from vpbench.execution.executor import get_executor
from vpbench.execution.opened_data import OpenedData
from vpbench.planning.plan import Request

# Found by every process that Slurm and Ray start. When vpbench.execution.execute is imported it loses its measuring
# functions; and a run does what the file VPBENCH_TEST_ORDERS says: "kill RUN_ID" at its start, "hang RUN_ID" at a step.
SITE = """
import importlib.abc, importlib.machinery, os, signal, sys, time

def orders():
    with open(os.environ["VPBENCH_TEST_ORDERS"]) as stream:
        return stream.read().splitlines()

def killed(execute):
    def do(run, *words, **more):
        if "kill " + run.spec.run_id in orders():
            os.kill(os.getpid(), signal.SIGKILL)
        return execute(run, *words, **more)
    return do

def hanging(may_pause):
    def do(checkpoints, *words):
        may_pause(checkpoints, *words)
        if "hang " + checkpoints._run_id in orders():
            print("waiting", file=sys.stderr, flush=True)
        while "hang " + checkpoints._run_id in orders():
            time.sleep(0.1)
            may_pause(checkpoints, *words)
    return do

def change(module):
    if module.__name__ == "vpbench.training.checkpoint":
        module.Checkpoints.may_pause = hanging(module.Checkpoints.may_pause)
    else:
        for function in ("measure_training", "measure_inference", "count_operations"):
            setattr(module, function, lambda *_: {})
        module.execute = killed(module.execute)

class Changed(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name not in ("vpbench.execution.execute", "vpbench.training.checkpoint"):
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        load = spec.loader.exec_module
        def load_and_change(module):
            load(module)
            change(module)
        spec.loader.exec_module = load_and_change
        return spec

sys.meta_path.insert(0, Changed())
"""


@pytest.fixture(scope="session", autouse=True)
def quick(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The environment of all processes: an image cache of our own, this checkout, one thread, and no measuring."""
    from vpbench.execution import execute as worker

    site = tmp_path_factory.mktemp("site")
    (site / "sitecustomize.py").write_text(SITE)
    (site / "orders").touch()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(site), str(CHECKOUT), os.environ.get("PYTHONPATH")])))
        patch.setenv("VPBENCH_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.delenv("VPBENCH_WEIGHTS", raising=False)
        patch.delenv("RAY_ADDRESS", raising=False)
        patch.setenv("VPBENCH_TEST_ORDERS", str(site / "orders"))
        patch.setenv("OMP_NUM_THREADS", "1")
        for name in ("measure_training", "measure_inference", "count_operations"):
            patch.setattr(worker, name, lambda *_: {})
        yield


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("images") / "grey")


@pytest.fixture(scope="session")
def request_for_grid(images: Path) -> Request:
    """All six methods, one epoch."""
    return Request(data=str(images), image_size=40, epochs=1, device="cpu", precision="fp32")


@pytest.fixture(scope="session")
def request_for_masks(tmp_path_factory: pytest.TempPathFactory) -> Request:
    """A segmentation by two methods, one epoch; SETR's head, with batch norm."""
    data, settings = write_masks(tmp_path_factory.mktemp("masks") / "halves"), {"task.head": "setr-pup", "task.width": 8}
    return Request(
        methods=("linear", "vpt"), data=(str(data),), task="segmentation", settings=settings, image_size=40, epochs=1,
        device="cpu", precision="fp32",
    )  # fmt: skip


@pytest.fixture
def orders(quick: None) -> Iterator[Path]:
    """A file for lines such as ``kill RUN_ID``, which runs obey; see ``SITE``."""
    path = Path(os.environ["VPBENCH_TEST_ORDERS"])
    yield path
    path.write_text("")


@pytest.fixture(scope="session")
def inline(quick: None, request_for_grid: Request, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of the grid, done in this process."""
    jobs, store = jobs_of(request_for_grid, tmp_path_factory.mktemp("inline") / "runs")
    assert [row["status"] for row in get_executor("inline")(jobs, store, Callback(), OpenedData())] == ["ok"] * 6
    return store.folder


@pytest.fixture(scope="session")
def inline_masks(quick: None, request_for_masks: Request, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of the segmentation, done in this process."""
    jobs, store = jobs_of(request_for_masks, tmp_path_factory.mktemp("inline") / "runs")
    assert [row["status"] for row in get_executor("inline")(jobs, store, Callback(), OpenedData())] == ["ok"] * 2
    return store.folder


@pytest.fixture(scope="module")
def ray_cluster(quick: None) -> Iterator[Any]:
    """A Ray cluster of a head and a node, ``lost``, with one CPU each."""
    ray = pytest.importorskip("ray", reason="Ray is not installed (pip install 'vpbench[ray]'); RAY IS NOT TESTED")
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        made.lost = made.add_node(num_cpus=1)
        yield made
    finally:
        ray.shutdown()
        made.shutdown()


@pytest.fixture(scope="module")
def slurm_cluster(quick: None) -> Iterator[None]:
    """A Slurm cluster of a node with two CPUs, found by the environment; and short waits of ours."""
    pytest.importorskip("submitit", reason="submitit is not installed (pip install 'vpbench[slurm]'); SLURM IS NOT TESTED")
    if missing := missing_programs():
        pytest.skip(f"not installed: {', '.join(missing)} (apt-get install slurm-wlm munge); SLURM IS NOT TESTED")
    from vpbench.execution.executors.slurm import slurm_dispatch

    folder = Path(tempfile.mkdtemp(prefix="slurm-"))
    try:
        with slurm(folder) as variables, pytest.MonkeyPatch.context() as patch:
            for name, value in variables.items():
                patch.setenv(name, value)
            patch.setattr(slurm_dispatch, "POLL_S", 0.5)
            patch.setattr(slurm_dispatch, "GRACE_S", 1.0)
            yield
    finally:
        shutil.rmtree(folder, ignore_errors=True)
