"""``vpbench tune`` with the real command: trials, a winner, final runs; stopped and continued; and what a user can get wrong."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
from command import rows, traces, vpbench
from sweeps import some

from vpbench.execution.run_progress import RunProgress
from vpbench.store.schema import REPRODUCIBLE
from vpbench.store.store import Store

HEAD = 'title = "t"\ndescription = "d"\nsource = "this test"\n[parameters]\n'
GRID = '"recipe.lr" = [0.1, 0.01]\n"recipe.weight_decay" = [0.01, 0.0]\n'


@pytest.fixture(scope="session")
def tuning(command: list[str]) -> list[str]:
    """``vpbench tune`` of linear probing on 36 images; the results folder is appended."""
    return ["tune", "--methods", "linear", "--seeds", "2", "--save", "none", *command[1:]]


@pytest.fixture
def space(tmp_path: Path) -> Path:
    path = tmp_path / "small.toml"
    path.write_text(HEAD + GRID)
    return path


def outcomes(done: Any) -> list[dict[str, Any]]:
    assert done.code == 0, done.err
    return list(json.loads(done.out))


def check_equal(folder: Path, other: Path) -> None:
    assert sorted(rows(folder)["run_id"]) == sorted(rows(other)["run_id"])
    for run_id in rows(folder)["run_id"]:
        here, there = (Store(place).read_row(run_id) for place in (folder, other))
        assert here is not None
        assert there is not None
        assert [here[name] for name in REPRODUCIBLE] == [there[name] for name in REPRODUCIBLE]


@pytest.mark.usefixtures("unmeasured")
def test_a_grid_is_stopped_and_continued(tuning: list[str], space: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = tmp_path / "runs"
    words = [*tuning, results, "--space", space]

    plan = json.loads(vpbench(*words, "--dry-run", "--json").out)
    assert (plan["search"]["trials"], plan["studies"][0]["finals"], plan["studies"][0]["stored"]) == (4, 2, 0)
    assert plan["total"] == {"trials": 4, "finals": 2, "stored": 0, "left": 6, "expected_s": None}
    assert not results.exists()

    with monkeypatch.context() as patch:  # Ctrl-C while the first trial ends
        finished = RunProgress.finished
        left: list[int] = []

        def stop(*about: Any) -> None:
            finished(*about)
            left.append(json.loads(vpbench("status", "--json", "--results", results).out)["left"])
            signal.raise_signal(signal.SIGINT)

        patch.setattr(RunProgress, "finished", stop)
        stopped = vpbench(*words)
    assert left == [5]  # three trials and two final runs
    assert stopped.code == 130, stopped.err
    assert "the same command continues" in stopped.err
    assert "linear on grey, lr 0.1, weight_decay 0.01, 1 epoch: " in stopped.err
    assert "Then 2 final runs of each winner; 2 final runs in all." in stopped.err and "[1/6] linear on grey" in stopped.err
    assert len(rows(results)) == 1
    shown = vpbench(*words, "--dry-run").out
    assert "Total: 4 trials, then 2 final runs; 1 stored, 5 left. Expected, by past rows: " in shown
    limited = vpbench(*words, "--limit", 2)
    assert (limited.code, len(rows(results))) == (0, 3)
    assert "the same command continues" in limited.err
    assert "1 of 4 runs are stored already." in limited.err and "[1/2] linear on grey" in limited.err

    (outcome,) = outcomes(vpbench(*words, "--json"))
    table = rows(results).set_index("run_id")
    trials, finals = table[table["stage"] == "search"], table[table["stage"] == "final"]
    assert (len(trials), len(finals)) == (4, 2)
    assert trials[["acc1", "correct", "total", "mean_per_class"]].isna().all(axis=None)
    assert (trials["val_acc1"] == 100 * trials["val_correct"] / trials["n_val"]).all()
    assert finals["acc1"].notna().all()
    for text in table["search"]:
        assert json.loads(text)["trials"] == 4
        assert json.loads(text)["searched"] == ["recipe.lr", "recipe.weight_decay"]
    best = trials.sort_values(["val_correct", "lr", "weight_decay"], ascending=[False, True, True]).iloc[0]
    assert set(finals["lr"]) == {best["lr"]}
    assert set(finals["weight_decay"]) == {best["weight_decay"]}
    assert outcome["trials"][outcome["winner"]]["run_id"] == best.name
    assert sorted(finals["seed"]) == [42, 44]

    before = traces(results)
    again = vpbench(*words)
    assert again.code == 0
    assert "4 complete" in again.out
    assert traces(results) == before
    report = vpbench("report", "--table", 1, "--results", results)
    assert "Runs: 2, made by" in " ".join(report.out.split())
    assert "from 4 trials (small, grid)" in " ".join(report.out.split())


@pytest.mark.sweep  # which trials there are is in tests/search/test_study.py
@pytest.mark.usefixtures("unmeasured")
def test_tpe_is_stopped_and_continued(tuning: list[str], tmp_path: Path) -> None:
    words = ["--space", "adamw", "--trials", 5, "--batch", 2, "--prune", 1, "--epochs", 2, "--seeds", 1]
    (whole,) = outcomes(vpbench(*tuning, tmp_path / "whole", *words, "--json"))
    assert [trial["number"] for trial in whole["trials"]] == list(range(5))
    assert len({trial["lr"] for trial in whole["trials"]}) == 5
    for limit in (3, 2):
        assert vpbench(*tuning, tmp_path / "parts", *words, "--limit", limit).code == 0
    assert outcomes(vpbench(*tuning, tmp_path / "parts", *words, "--json")) == [whole]
    check_equal(tmp_path / "parts", tmp_path / "whole")


@pytest.mark.sweep
@pytest.mark.skipif(sys.platform == "win32", reason="no signals")
@pytest.mark.usefixtures("unmeasured", "workers")
def test_worker_processes_give_the_same_rows(tuning: list[str], space: Path, tmp_path: Path) -> None:
    for place, more in (("inline", []), ("local", ["--executor", "local", "--workers", 2])):
        done = vpbench(*tuning, tmp_path / place, "--space", space, "--seeds", 1, "--threads", 1, *more)
        assert done.code == 0, done.err
    check_equal(tmp_path / "local", tmp_path / "inline")


@pytest.mark.parametrize(
    ("content", "words", "parts"),
    some(
        [
            ("[parmeters]\nn = [1]", "", ["line 4: parmeters: ", "Did you mean 'parameters'?", "mine.toml"]),
            ('[parameters]\n"recipe.rl" = [1]', "", ["'rl'", "Did you mean 'lr'?", "mine"]),
            ('[parameters]\n"vptt.n" = [1]', "", ["'vptt'", "Did you mean 'vpt'?"]),
            ('[parameters]\n"vpt.promt_length" = [1]', "--methods vpt", ["'promt_length'", "Did you mean 'prompt_length'?"]),
            ('[parameters]\n"vpt.prompt_length" = [1, 0]', "--methods vpt", ["prompt_length", "at least 1", "0"]),
            ('[parameters]\n"recipe.lr" = [0.1, -1]', "", ["recipe.lr", "greater than 0", "-1"]),
            ('[parameters]\n"recipe.lr" = { low = -1.0, high = 1.0 }', "--sampler tpe --trials 3", ["recipe.lr", "-1"]),
            ("[parameters]\nprompt_length = [1]", "", ["linear", "'prompt_length'"]),
            ('[parameters]\n"vpt.prompt_length" = [1]', "", ["nothing to search for linear", "--methods"]),
            (
                '[parameters]\n"vpt.prompt_length" = [1, 2]\n"recipe.lr" = [1.0]',
                "--methods vpt,linear",
                ["2 for vpt, 1 for linear"],
            ),
            ('[parameters]\n"recipe.lr" = [1.0, 2.0]', "--trials 3", ["--trials 3", "2 points", "--sampler tpe"]),
            ('[parameters]\n"recipe.lr" = [1.0, 2.0]', "--sampler tpe", ["no budget", "--trials N"]),
            ('[parameters]\n"recipe.lr" = [1.0, 2.0]', "--sampler tep", ["'tep'", "Did you mean 'tpe'?"]),
            ('[parameters]\n"recipe.lr" = [1.0, 2.0]', "--prune 1", ["--prune", "grid"]),
            (
                '[parameters]\n"recipe.lr" = [1.0]',
                "--sampler tpe --trials 2 --prune 1",
                ["--prune 1", "less than the epochs of a trial, 1"],
            ),
            ('[parameters]\n"recipe.lr" = [1.0, 2.0]', "--set recipe.lr=1", ["--set recipe.lr", "searches it"]),
            ('[parameters]\n"recipe.lr" = [1.0, 2.0]', "--seeds 0", ["--seeds 0"]),
            ('[parameters]\n"recipe.lr" = [1.0, 2.0]', "--methods linaer", ["'linaer'", "Did you mean 'linear'?"]),
            ('[parameters]\n"recipe.lr" = [1.0, 2.0]', "--save feature", ["'feature'", "Did you mean 'features'?"]),
            ("", "--space vpt-gird", ["'vpt-gird'", "Did you mean 'vpt-grid'?"]),
        ],
        10,
    ),
)
def test_mistakes(content: str, words: str, parts: list[str], tuning: list[str], tmp_path: Path) -> None:
    space = tmp_path / "mine.toml"
    space.write_text(HEAD.removesuffix("[parameters]\n") + content)
    before = traces(tmp_path)
    done = vpbench(*tuning, tmp_path / "runs", "--space", space, *words.split())
    assert done.code == 2, done.err
    assert done.out == ""
    (line,) = done.err.splitlines()
    assert line.startswith("vpbench: ")
    for part in parts:
        assert part in line
    assert traces(tmp_path) == before


def test_no_optuna(tuning: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    done = vpbench(*tuning, tmp_path / "runs", "--space", "adamw")
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "pip install 'vpbench[search]'" in done.err


@pytest.mark.sweep
def test_a_method_that_the_backbone_cannot_have_is_named_and_the_others_are_searched(
    tuning: list[str], space: Path, tmp_path: Path
) -> None:
    words = [*tuning, tmp_path / "runs", "--space", space, "--methods", "ilm_vp,linear", "--dry-run"]
    done = vpbench(*words)
    assert done.code == 0, done.err
    assert "No expected times yet" in done.out and "expected_s" not in done.out
    assert "Not searched: ilm_vp on vit-nano: this method uses the classifier" in " ".join((done.out + done.err).split())
    assert [row["method"] for row in json.loads(vpbench(*words, "--json").out)["studies"]] == ["linear"]
    alone = vpbench(*[word if word != "ilm_vp,linear" else "ilm_vp" for word in words])
    assert (alone.code, alone.err.count("\n")) == (6, 1) and "ilm_vp on vit-nano" in alone.err
