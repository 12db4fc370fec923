"""Own images with hostile names through the command line, and results folders that Slurm would misread."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from command import traces, vpbench, write_images
from hostile_names import OBEYED

FOLDER = "[red]$x$ =1 \x1b[31m%j"
CLASSES = ("=cmd|x", "\x1b[2Jclear", "[bold]b")


def test_own_images(tmp_path: Path, unmeasured: None) -> None:
    """From a folder with such a name and such classes to a plan, a row, a table and figures."""
    source = write_images(tmp_path / "plain")
    for split in ("train", "val", "test"):
        for place, name in enumerate(CLASSES):
            (source / split / f"c{place}").rename(source / split / name)
    images = source.rename(tmp_path / FOLDER)
    common = ["--data", images, "--methods", "linear", "--image-size", "40", "--epochs", "1", "--device", "cpu"]
    planned = vpbench("run", *common, "--results", tmp_path / "runs", "--dry-run")
    assert planned.code == 0, planned.err
    assert "[red]$x$" in planned.out.replace("\n", "") and OBEYED.findall(planned.out) == []
    done = vpbench("run", *common, "--results", tmp_path / "runs")
    assert done.code == 0, done.err
    assert OBEYED.findall(done.out + done.err) == []
    shown = vpbench("report", "--plot", "seeds", "--results", tmp_path / "runs", "--out", tmp_path / "figures")
    assert shown.code == 0, shown.err
    assert OBEYED.findall(shown.out + shown.err) == []
    assert len(list((tmp_path / "figures").iterdir())) == 2


def test_slurm_takes_no_pattern(results: Path, tmp_path: Path, command: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("submitit", reason="submitit is not installed (pip install 'vpbench[slurm]'); SLURM IS NOT TESTED")
    from vpbench.execution.executors.slurm import slurm_executor

    monkeypatch.setattr(slurm_executor, "check_accepted", lambda wanted: None)
    for name in ("%j", "a\\b", "x%"):
        place = Path(shutil.copytree(results, tmp_path / name / "runs"))
        before = traces(place)
        done = vpbench(*command, place, "--methods", "vpt:shallow", "--executor", "slurm")
        assert done.code == 2 and "Slurm reads as a pattern" in done.err and done.err.count("\n") == 1
        assert traces(place) == before
