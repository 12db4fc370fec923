"""The command line in this process."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from check_rows import Call, as_frame, grid, write_store

from vpbench.checking.baseline import write_baseline
from vpbench.cli.app import main


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """``call("check", ...)`` gives exit code, stdout and stderr."""

    def run(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["vpbench", *map(str, words)])
        with pytest.raises(SystemExit) as stop:
            main()
        out, err = capsys.readouterr()
        return int(stop.value.code or 0), out, err

    return run


@pytest.fixture
def baseline(tmp_path: Path) -> Path:
    """Three methods, eight seeds."""
    path = tmp_path / "baselines" / "ci.parquet"
    write_baseline(as_frame(grid(range(8))), path)
    return path


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """One good run of each method."""
    return write_store(grid([3]), tmp_path / "runs")
