"""What is said while runs are under way: how many there are, how long the rest takes, and whole numbers on 80 columns."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from local_runs import planned

from vpbench.core.terminal import Terminal
from vpbench.execution.run_progress import RunProgress, _bars
from vpbench.execution.time_left import TimeLeft
from vpbench.planning.expected_time import PastRuns, Work
from vpbench.planning.plan import Plan
from vpbench.store.store import Store

OK = {"status": "ok", "score": 50.0, "val_score": 50.0}


def work(method: str = "vpt", images: int = 60) -> Work:
    return Work("cpu", "vit-nano", method, "noise", images, 32)


def past(method: str, wall_s: float) -> dict[str, Any]:
    return {
        "status": "ok", "method": method, "dataset": "noise", "backbone": "vit-nano", "device": "cpu", "epochs": 10,
        "n_train": 6, "wall_s": wall_s, "image_size": 32,
    }  # fmt: skip


def test_the_time_left_is_known_by_method_when_one_of_its_runs_has_ended() -> None:
    left = TimeLeft({"a": work(), "b": work(), "c": work("linear"), "final": work(images=120)}, PastRuns([]))
    assert left.seconds() is None
    left.ended("a", None)  # it failed, which tells nothing
    assert left.seconds() is None
    left.ended("b", 10.0)
    assert left.seconds() == pytest.approx(10 + 20)  # a final run has twice the epochs; linear has no run yet
    left.ended("c", 1.0)
    assert left.seconds() == pytest.approx(20)
    assert left.seconds({"final": 15.0}) == pytest.approx(5)
    assert left.seconds({"final": 100.0}) == pytest.approx(10)  # overdue


def test_past_rows_tell_the_time_left_until_own_runs_do() -> None:
    left = TimeLeft({"a": work(), "b": work(), "c": work("linear")}, PastRuns([past("vpt", 30.0), past("linear", 2.0)]))
    assert left.seconds() == pytest.approx(62)
    left.ended("a", 40.0)  # this machine is slower
    assert left.seconds() == pytest.approx(42)
    left.ended("b", 40.0)
    left.ended("c", 2.0)
    assert not left.seconds()


def test_a_log_has_the_time_left_and_counts_what_follows(images: Path, store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    whole = planned(images, store, seeds=3)
    ids = [run.spec.run_id for run in whole.runs]
    first = Plan(whole.runs, frozenset(ids[:1]), whole.data, whole.request, later=[work("linear", 7200)] * 2)
    progress = RunProgress()
    progress.planned(first, None)
    works = {run_id: work("linear", 3600) for run_id in ids[1:]} | {f"later {n}": each for n, each in enumerate(first.later)}
    progress.expecting(works, PastRuns([past("linear", 60.0)]))
    progress.started(whole.runs[1])
    for run in whole.runs[1:]:
        progress.finished(run, {**OK, "wall_s": 7200.0})
    progress.planned(whole, 2)  # the next round, of which two are done
    progress.expecting({run_id: work("linear", 3600) for run_id in ids[:2]}, PastRuns([]))
    progress.finished(whole.runs[0], {**OK, "wall_s": 60.0})
    progress.finished(whole.runs[1], {**OK, "wall_s": 60.0})
    lines = capsys.readouterr().err.splitlines()
    assert lines[:2] == [
        "1 of 3 runs are stored already; 2 later runs will follow.",
        "4 runs left, by past rows about 6.0 h, one after the other.",
    ]
    assert [line.partition("]")[0] for line in lines[2:]] == ["[1/4", "[2/4", "[3/4", "[4/4"]
    assert [line.rpartition(", ")[2] for line in lines[2:]] == [
        "about 10.0 h left",
        "about 8.0 h left",
        "about 60 s left",
        "60 s",
    ]
    progress.planned(whole, None)  # another command's
    assert progress.done == 0


@pytest.mark.parametrize(
    "name", ["all runs", "insvp:released on sprites-location, lr 0.031, weight_decay 0.01, 3 epochs, training"]
)
def test_numbers_are_whole_on_80_columns(name: str) -> None:
    console = Terminal(file=io.StringIO(), width=80, force_terminal=True, color_system=None)
    bars = _bars(console)
    bars.add_task("all runs", total=2322, completed=1532, ends=1e9)
    bars.add_task(name, total=100, completed=99)
    with console.capture() as shown:
        console.print(bars.get_renderable())
    first, second = shown.get().splitlines()
    assert "all runs" in first and "1532/2322" in first and first.count(":") == 4
    assert "99/100" in second and "ETA -:--:--" in second
    assert max(len(first), len(second)) <= 80 and name[:20] in second
