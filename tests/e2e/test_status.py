"""``vpbench status`` before a run is under way, and for folders without results."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from command import vpbench

from vpbench.core.errors import WeightsError
from vpbench.execution import execute_plan
from vpbench.store.store import Store


def test_a_run_is_announced_before_its_weights_are_read(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results, seen = tmp_path / "re", []

    def loading(*_: Any) -> None:
        seen.append(vpbench("status", "--results", results).out)
        raise WeightsError("too large")

    monkeypatch.setattr(execute_plan, "load_backbone", loading)
    assert vpbench(*command, results).err.endswith("too large\n")
    assert "6 runs left, time unknown; none is under way at this moment" in " ".join(seen[0].split())
    assert Store(results).claims.grids() == []


def test_watching_waits_for_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a file, what it shows last is a whole line."""
    results = tmp_path / "re"
    sleeps = iter((results.mkdir, None))

    def sleep(_: float) -> None:
        if (make := next(sleeps)) is None:
            raise KeyboardInterrupt
        make()

    monkeypatch.setattr(time, "sleep", sleep)
    done = vpbench("status", "--watch", "--results", results)
    assert (done.code, done.err) == (0, "")
    assert " ".join(done.out.split()).endswith("re holds no rows. Nothing is running. --results chooses another folder.")
    assert done.out.endswith("\n")

    def stop(_: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(time, "sleep", stop)
    done = vpbench("status", "--watch", "--results", tmp_path / "none")
    assert "yet; waiting for it until Ctrl-C." in " ".join(done.out.split()) and done.out.endswith("\n")


@pytest.mark.parametrize(
    "words",
    ["status", "status --collect --watch", "logs 3fa9", "report", "report --html {there}/page", "show run", "show run 3fa9",
     "export 3fa9 --to folder", "rm 3fa9 --yes", "compact", "export --to {there}/a.csv"],
)  # fmt: skip
def test_a_folder_that_is_not_there(words: str, tmp_path: Path) -> None:
    done = vpbench(*words.format(there=tmp_path).split(), "--results", tmp_path / "none")
    assert done.code == 5 and f"there is no results folder {tmp_path / 'none'}; --results chooses another one." in done.err
