"""A grid that is killed, interrupted, or runs out of disk continues with the same command."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from command import leave, row_files, rows, small_disk, start, traces, vpbench
from sweeps import some

from vpbench.store.store import Store

GRID = ["--methods", "linear,vpt", "--seeds", "2", "--save", "none"]


def started_grid(results: Path, command: list[str]) -> subprocess.Popen[str]:
    """A process that works on ``GRID`` and has stored a row, but not all four."""
    process = start(*command, results, *GRID)
    deadline = time.monotonic() + 120
    while not row_files(results):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return process


def check_continues(results: Path, command: list[str]) -> None:
    """The same command leaves the rows that are there alone and adds the others, every run once."""
    names = {path.name for path in row_files(results)}
    before = {name: trace for name, trace in traces(results).items() if name in names}
    assert 1 <= len(before) < 4
    done = vpbench(*command, results, *GRID)
    assert done.code == 0, done.err
    assert f"{4 - len(before)} of them new" in done.out
    assert before.items() <= traces(results).items()
    table = rows(results)
    assert sorted(zip(table["method"], table["seed"])) == [("linear", 42), ("linear", 44), ("vpt", 42), ("vpt", 44)]
    assert set(table["status"]) == {"ok"}


@pytest.mark.sweep
@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
def test_kill(tmp_path: Path, command: list[str], unmeasured: None) -> None:
    with started_grid(tmp_path, command) as process:
        process.kill()
    assert process.returncode == -signal.SIGKILL
    check_continues(tmp_path, command)


@pytest.mark.sweep
@pytest.mark.skipif(sys.platform == "win32", reason="no SIGINT for one process")
def test_interrupt(tmp_path: Path, command: list[str], unmeasured: None) -> None:
    process = started_grid(tmp_path, command)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert out == ""
    assert "Traceback" not in err
    assert [line for line in err.splitlines() if line.startswith("vpbench:")] == err.splitlines()[-1:]
    assert "the same command continues" in err
    assert set(traces(tmp_path)) == {path.name for path in row_files(tmp_path)}
    check_continues(tmp_path, command)


def test_what_a_killed_writer_leaves(results: Path, command: list[str], unmeasured: None) -> None:
    """Neither a half-written file nor one that lost its end keeps the others from being read."""
    run_id = rows(results).query("method == 'vpt'")["run_id"].item()
    whole = (results / f"{run_id}.parquet").read_bytes()
    (results / f".{run_id}.99.partial.parquet").write_bytes(whole[:500])
    (results / "_artefacts" / run_id / ".features.npz.99.partial").write_bytes(b"PK")
    assert "0 of them new" in vpbench(*command, results, "--methods", "linear,vpt").out
    (results / f"{run_id}.parquet").write_bytes(whole[:500])
    done = vpbench(*command, results, "--methods", "linear,vpt")
    assert done.code == 0
    assert "1 of them new" in done.out
    assert rows(results)["status"].tolist() == ["ok", "ok"]


@pytest.mark.sweep
def test_broken_image_cache(
    results: Path, command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unmeasured: None
) -> None:
    """A cache that was cut off or is being built by a process that died is built again, to the same result."""
    monkeypatch.setenv("VPBENCH_CACHE", str(tmp_path / "cache"))
    words = [*command, "--methods", "linear", "--save", "none", "--json"]
    words.remove("--results")
    first = vpbench(*words, "--results", tmp_path / "first")
    folders = [path for path in (tmp_path / "cache").iterdir() if path.is_dir()]
    for folder in folders:
        with (folder / "pixels.bin").open("r+b") as stream:
            stream.truncate(1000)
    (tmp_path / "cache" / ".building-dead" / "new").mkdir(parents=True)
    second = vpbench(*words, "--results", tmp_path / "second")
    for folder in folders:
        (folder / "complete.json").unlink()
    third = vpbench(*words, "--results", tmp_path / "third")
    assert [first.code, second.code, third.code] == [0, 0, 0]
    losses = [rows(tmp_path / name)["first_losses"][0].tolist() for name in ("first", "second", "third")]
    assert losses[0] == losses[1] == losses[2]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 320 kB, which holds a few rows."""
    with small_disk(tmp_path / "disk", "320k") as folder:
        yield folder


def test_disk_full_in_the_middle(disk: Path, finished: Path, command: list[str], unmeasured: None) -> None:
    size = max(path.stat().st_size for path in row_files(finished))
    filler, results = leave(disk, 3 * size // 2), disk / "runs"
    done = vpbench(*command, results, *GRID)
    assert done.code == 5
    lines = done.err.splitlines()
    assert [line for line in lines if line.startswith("vpbench: ")] == lines[-1:]
    assert str(results) in lines[-1]
    assert "No space left" in lines[-1]
    assert "--results FOLDER" in lines[-1]
    assert len(traces(results)) == 1
    filler.unlink()
    check_continues(results, command)


@pytest.mark.parametrize("save", some(["none", "weights", "features", "predictions"], 1))
def test_disk_full_from_the_start(save: str, disk: Path, command: list[str], unmeasured: None) -> None:
    leave(disk, 0)
    before = traces(disk)
    done = vpbench(*command, disk / "runs", "--methods", "linear", "--save", save)
    assert done.code == 5
    assert len(done.err.splitlines()) == 1
    assert done.err.startswith("vpbench: ")
    assert "No space left" in done.err
    assert traces(disk) == before


@pytest.mark.sweep  # resuming at any step is in tests/training/test_checkpoint.py
@pytest.mark.skipif(sys.platform == "win32", reason="no SIGTERM for one process")
def test_a_long_run_goes_on_where_it_was(tmp_path: Path, command: list[str], unmeasured: None) -> None:
    """Asked to stop, killed, and given again: the row, the weights and the curve are those of a run that nobody disturbed."""
    long = ["--methods", "vpt", "--epochs", 20, "--selection", "best_val", "--save", "weights,curve", "--threads", 1]
    assert vpbench(*command, tmp_path / "undisturbed", *long).code == 0
    results = tmp_path / "runs"
    store = Store(results)
    (run_id,) = rows(tmp_path / "undisturbed")["run_id"]

    def disturb(numbers: Sequence[signal.Signals], *more: object) -> tuple[int, str]:
        path = store.checkpoint_path(run_id)
        before, deadline = path.stat().st_mtime_ns if path.exists() else 0, time.monotonic() + 120
        process = start(*command, results, *long, *more)
        while not path.exists() or path.stat().st_mtime_ns == before:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        for number in numbers:
            process.send_signal(number)
            time.sleep(0.05)
        out, err = process.communicate(timeout=60)
        assert out == ""
        assert row_files(results) == []
        assert store.claims.held() == {}
        assert path.exists()
        return process.returncode, err

    # Twice, as from a scheduler and from the shell between.
    code, err = disturb([signal.SIGTERM, signal.SIGTERM], "--checkpoint-every", "0.2s")
    assert code == 143
    assert "Traceback" not in err
    assert err.splitlines()[-1].startswith("vpbench: stopped by SIGTERM")
    assert "same command" in err.splitlines()[-1]
    assert disturb([signal.SIGKILL], "--checkpoint-every", "0.2s")[0] == -signal.SIGKILL
    done = vpbench(*command, results, *long)
    assert done.code == 0, done.err
    assert f"run {run_id[:8]} resumes from its checkpoint" in " ".join(done.err.split())
    assert not store.checkpoint_path(run_id).exists()
    found, expected = (Store(folder).read_row(run_id) for folder in (results, tmp_path / "undisturbed"))
    assert found is not None
    assert expected is not None
    assert {name for name in found if found[name] != expected[name]} <= {"started_at", "wall_s"}
    for name in ("weights.safetensors", "curve.csv"):
        assert (
            store.artefact_path(run_id, name).read_bytes()
            == Store(tmp_path / "undisturbed").artefact_path(run_id, name).read_bytes()
        )
