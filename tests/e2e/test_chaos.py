"""A grid whose workers, parents, nodes, disk and cache fail while it runs ends with every run once and the same numbers."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from command import CHECKOUT, leave, row_files, rows, small_disk, start, vpbench

from vpbench.store.store import Store

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="kills processes by signals and finds them in /proc")

# For the processes that vpbench starts: no measuring; a run lasts a moment, so that it can be hit; each row that is written
# to the results folder (a Ray task has a folder of its own) is noted in a file. Python imports ``sitecustomize`` when it starts.
# Nothing is imported before the process does it itself: Ray's own processes must start quickly.
START = """
import importlib.util
import os
import sys
import time

def quick(worker):
    for name in ("measure_training", "measure_inference"):
        setattr(worker, name, lambda *_: {})
    worker.count_operations = lambda *_: time.sleep(0.2) or {}

def telling(folder):
    write = folder.Store.write_row

    def write_row(store, row):
        path = write(store, row)
        if store.folder.name != "runs":
            return path
        with open(os.environ["ROWS_WRITTEN"], "a") as stream:
            stream.write(row["run_id"] + "\\n")
        return path

    folder.Store.write_row = write_row

class Changed:
    changes = {"vpbench.execution.execute": quick, "vpbench.store.store": telling}

    def find_spec(self, name, path=None, target=None):
        change = self.changes.pop(name, None)
        if change is None:
            return None
        spec = importlib.util.find_spec(name)
        run = spec.loader.exec_module
        spec.loader.exec_module = lambda module: (run(module), change(module))
        return spec

sys.meta_path.insert(0, Changed())
"""

# Neither a count of attempts nor a moment of the clock may change a number.
VARYING = ["started_at", "wall_s"]


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The ids of all rows that processes write, as often as they do."""
    threads = torch.get_num_threads()
    site = tmp_path / "start"
    site.mkdir()
    (site / "sitecustomize.py").write_text(START)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(site), str(CHECKOUT)]))
    monkeypatch.setenv("ROWS_WRITTEN", str(tmp_path / "written"))
    monkeypatch.setenv("VPBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.syspath_prepend(str(CHECKOUT))
    monkeypatch.syspath_prepend(str(site))
    yield tmp_path / "written"
    torch.set_num_threads(threads)


def until(condition: Callable[[], object], process: subprocess.Popen[str] | None = None, seconds: float = 200) -> bool:
    """Wait; False when the process ended before."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        if process is not None and process.poll() is not None:
            return False
        time.sleep(0.02)
    return True


def count(results: Path) -> int:
    return len(row_files(results))


def at_work(results: Path) -> set[int]:
    """Processes that are doing a run. The pid beside a lock is for a moment that of the process which had it before."""
    pids = {about["pid"] for about in Store(results).claims.held().values() if "pid" in about}
    return {pid for pid in pids if status(pid)}


def kill_a_worker(results: Path, parent: int) -> bool:
    """One in the middle of a run, if any: it is stopped for the look at its row, or the run could end before the kill."""
    store = Store(results)
    for run_id, about in store.claims.held().items():
        if (pid := about.get("pid", parent)) == parent or status(pid) is None:  # a zombie can be killed, to no effect
            continue
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
            unfinished = store.read_row(run_id) is None
            os.kill(pid, signal.SIGKILL if unfinished else signal.SIGCONT)
            if unfinished:
                return True
    return False


def kill_the_parent(process: subprocess.Popen[str]) -> None:
    """Its workers end by themselves."""
    children = descendants(process.pid)
    process.kill()
    process.communicate()
    end = time.monotonic() + 60
    while any((now := status(pid)) and now[1] == began for pid, (_, began) in children.items()):
        assert time.monotonic() < end, children
        time.sleep(0.1)


def status(pid: int) -> tuple[int, str] | None:
    """Parent of a process, and when it began in ticks since boot, which tells it from a later one of its number; None when it
    has ended (a zombie has)."""
    with suppress(OSError):
        state, parent, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if state in "ZX" else (int(parent), fields[17])
    return None


def descendants(pid: int) -> dict[int, tuple[int, str]]:
    """The living children of a process and theirs, by number."""
    alive = {int(path.name): status(int(path.name)) for path in Path("/proc").iterdir() if path.name.isdigit()}
    found: dict[int, tuple[int, str]] = {}
    parents = {pid}
    while parents:
        children = {child: known for child, known in alive.items() if known is not None and known[0] in parents}
        found.update(children)
        parents = set(children)
    return found


def cut_a_cache_file(cache: Path, rng: random.Random) -> None:
    """As by a full disk or a careless hand. Nobody may have it open: a mapped file that shrinks kills who reads it."""
    files = sorted(cache.glob("*/pixels.bin"))
    if files:
        with rng.choice(files).open("r+b") as stream:
            stream.truncate(100)


def check(results: Path, undisturbed: Path, written: Path, total: int) -> None:
    """Every run once, every row readable, every number equal."""
    table = rows(results)
    assert len(table) == table["run_id"].nunique() == total
    assert set(table["status"]) == {"ok"}
    for run_id in table["run_id"]:
        found, expected = (Store(folder).read_row(run_id) for folder in (results, undisturbed))
        assert found is not None
        assert expected is not None
        assert {name: value for name, value in found.items() if name not in VARYING} == {
            name: value for name, value in expected.items() if name not in VARYING
        }
    times = Counter(written.read_text().split())
    assert set(times.values()) <= {1}
    assert set(times) <= set(table["run_id"])
    assert Store(results).claims.held() == {}


@pytest.mark.sweep
@pytest.mark.usefixtures("unmeasured")
def test_killed_parent_killed_worker_and_two_commands(command: list[str], tmp_path: Path, written: Path) -> None:
    grid = ["--methods", "linear,vpt", "--seeds", 5, "--save", "none", "--threads", 1]
    results, total = tmp_path / "runs", 10
    assert vpbench(*command, tmp_path / "undisturbed", *grid).code == 0

    first = start(*command, results, *grid, "--workers", 1)
    assert until(lambda: count(results) >= 2, first), first.communicate()
    kill_the_parent(first)
    assert 2 <= count(results) < total
    cut_a_cache_file(tmp_path / "cache", random.Random(0))

    second = start(*command, results, *grid, "--workers", 1, "--retries", 2)
    assert until(lambda: at_work(results) - {second.pid}, second), second.communicate()
    killed = at_work(results)
    assert until(lambda: kill_a_worker(results, second.pid), second), second.communicate()
    assert until(lambda: at_work(results) - killed, second), second.communicate()  # another worker took the place
    here = vpbench(*command, results, *grid)  # while the second command goes on
    _, err = second.communicate(timeout=200)
    assert (here.code, second.returncode) == (0, 0), (here.err, err)
    assert "It is retried" in err, err
    check(results, tmp_path / "undisturbed", written, total)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MB."""
    with small_disk(tmp_path / "disk", "8m") as folder:
        yield folder


@pytest.fixture
def cluster(written: Path) -> Iterator[Any]:
    """A Ray cluster of a head without CPUs and two nodes with one each, in ``nodes``."""
    pytest.importorskip("ray", reason="Ray is not installed (pip install 'vpbench[ray]'); CHAOS IS NOT TESTED")
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        made.nodes = [made.add_node(num_cpus=1) for _ in range(2)]
        yield made
    finally:
        made.shutdown()


@pytest.mark.slow
@pytest.mark.usefixtures("unmeasured")
@pytest.mark.parametrize("seed", [0])
def test_chaos(command: list[str], tmp_path: Path, written: Path, disk: Path, cluster: Any, seed: int) -> None:
    """Sixty runs. In any order and at any moment, workers, parents and nodes are killed, the disk gets full, and cache files
    are cut off; then the command is given again."""
    rng = random.Random(seed)
    grid = ["--methods", "linear,vpt", "--seeds", 30, "--save", "none", "--threads", 1, "--epochs", 3]
    grid += ["--checkpoint-every", "0.05s"]
    results, total = disk / "runs", 60
    assert vpbench(*command, tmp_path / "undisturbed", *grid).code == 0
    local = [*command, results, *grid, "--executor", "local", "--retries", 9]
    ray = [*command, results, *grid, "--executor", "ray", "--executor-option", f"address={cluster.address}"]

    def more_rows(process: subprocess.Popen[str]) -> None:
        seen, wanted = count(results), rng.randrange(1, 4)
        assert until(lambda: count(results) >= seen + wanted, process), process.communicate()

    def lose_workers() -> None:
        process, other = start(*local, "--workers", 2), start(*local, "--workers", 1)
        for _ in range(3):
            more_rows(process)
            assert until(lambda: kill_a_worker(results, process.pid), process), process.communicate()
        for parent in (process, other):
            more_rows(parent)
            kill_the_parent(parent)

    def lose_a_node() -> None:
        process = start(*ray)
        more_rows(process)
        cluster.remove_node(cluster.nodes.pop(rng.randrange(2)), allow_graceful=False)
        more_rows(process)
        cluster.nodes.append(cluster.add_node(num_cpus=1))
        kill_the_parent(process)

    def fill_the_disk() -> None:
        filler = leave(disk, rng.randrange(20_000, 200_000))
        full = vpbench(*local, "--workers", 2)
        assert full.code == 5, full.err
        assert "No space left" in full.err.splitlines()[-1]
        filler.unlink()

    disasters = 2 * [lose_workers, lose_a_node, fill_the_disk]
    rng.shuffle(disasters)
    for disaster in disasters:
        disaster()
        assert count(results) < total
        cut_a_cache_file(tmp_path / "cache", rng)
    last = vpbench(*local, "--workers", 2)
    assert last.code == 0, last.err
    check(results, tmp_path / "undisturbed", written, total)
