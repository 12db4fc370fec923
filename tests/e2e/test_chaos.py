"""A grid whose workers, parents and cache are destroyed while it runs ends with every run once and the same numbers."""

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

import psutil
import pytest
import torch
from command import CHECKOUT, rows, start, vpbench

from vpbench.store.folder import Store

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="kills processes by signals and finds them by psutil")

# For the processes that vpbench starts: no measuring; a run lasts a moment, so that it can be hit; each row that is written
# is told to a file. Python imports ``sitecustomize`` when it starts.
START = """
import os
import time
from vpbench.execution import worker
from vpbench.store.folder import Store

for name in ("measure_training", "measure_inference"):
    setattr(worker, name, lambda *_: {})
worker.count_operations = lambda *_: time.sleep(0.2) or {}
write = Store.write_row

def write_row(store, row):
    path = write(store, row)
    with open(os.environ["ROWS_WRITTEN"], "a") as stream:
        stream.write(row["run_id"] + "\\n")
    return path

Store.write_row = write_row
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
    return len(list(results.glob("*.parquet")))


def kill_a_worker(results: Path, parent: int) -> bool:
    """Of those that are doing a run, if any."""
    pids = [about.get("pid") for about in Store(results).claims.held().values()]
    hit = [pid for pid in pids if pid is not None and pid != parent]
    for pid in hit[:1]:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return bool(hit)


def kill_the_parent(process: subprocess.Popen[str]) -> None:
    """Its workers end by themselves."""
    children = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.communicate()
    _, alive = psutil.wait_procs(children, timeout=60)
    assert alive == []


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


@pytest.mark.usefixtures("unmeasured")
def test_killed_parent_killed_worker_and_two_commands(command: list[str], tmp_path: Path, written: Path) -> None:
    grid = ["--methods", "linear,vpt", "--seeds", 8, "--save", "none", "--threads", 1]
    results, total = tmp_path / "runs", 16
    assert vpbench(*command, tmp_path / "undisturbed", *grid).code == 0

    first = start(*command, results, *grid, "--workers", 1)
    assert until(lambda: count(results) >= 2, first), first.communicate()
    kill_the_parent(first)
    assert 2 <= count(results) < total
    cut_a_cache_file(tmp_path / "cache", random.Random(0))

    second = start(*command, results, *grid, "--workers", 1, "--retries", 2)
    assert until(lambda: kill_a_worker(results, second.pid), second), second.communicate()
    here = vpbench(*command, results, *grid)  # while the second command goes on
    _, err = second.communicate(timeout=200)
    assert (here.code, second.returncode) == (0, 0), (here.err, err)
    assert "It is repeated" in err
    check(results, tmp_path / "undisturbed", written, total)


@pytest.mark.slow
@pytest.mark.usefixtures("unmeasured")
@pytest.mark.parametrize("seed", [0])
def test_chaos(command: list[str], tmp_path: Path, written: Path, seed: int) -> None:
    """Sixty runs; workers and parents are killed and cache files cut off at random, and then the command goes on."""
    rng = random.Random(seed)
    grid = ["--methods", "linear,vpt", "--seeds", 30, "--save", "none", "--threads", 1]
    results, total, done = tmp_path / "runs", 60, Counter[str]()
    assert vpbench(*command, tmp_path / "undisturbed", *grid).code == 0
    while count(results) < total or done["parent"] < 3:
        process = start(*command, results, *grid, "--workers", 2, "--retries", 9)
        other = start(*command, results, *grid, "--workers", 1, "--retries", 9) if rng.random() < 0.3 else None
        before, parent_dies = count(results), done["parent"] < 6
        while process.poll() is None:
            if not until(lambda seen=before: count(results) > seen + rng.randrange(3, 8), process):
                break
            before = count(results)
            kind = rng.choice(["worker", "worker", "parent"] if parent_dies else ["worker"])
            if kind == "parent":
                kill_the_parent(process)
                done[kind] += 1
            elif done[kind] < 12:
                done[kind] += kill_a_worker(results, process.pid)
        process.communicate(timeout=300)
        if other is not None:
            other.communicate(timeout=300)
        if count(results) >= total:
            break
        cut_a_cache_file(tmp_path / "cache", rng)
        done["cache"] += 1
    last = vpbench(*command, results, *grid)
    assert last.code == 0, last.err
    assert done["worker"] >= 3, done
    assert done["parent"] >= 1, done
    assert done["cache"] >= 1, done
    check(results, tmp_path / "undisturbed", written, total)
