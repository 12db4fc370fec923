"""What a newcomer meets first: names of runs, lists that other programs read, groups of commands without a command."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from command import environment, rows, vpbench, write_images

MISTYPED = {
    "run --methods linaer": "'linear'",
    "run --methods vpt:shalow --dry-run": "'shallow'",
    "run --methods vpt --set vpt.promt_length=3": "'prompt_length'",
    "run --set recipe.epoch=1": "'epochs'",
    "run --suite minni": "'mini'",
    "run --datasets digit": "'digits'",
    "run --backbone vit-nono": "'vit-nano'",
    "run --data nowhere --methods vptt": "'vpt'",
    "run typed.toml": "'linear'",
    "tune --space vpt-gird --methods vpt": "'vpt-grid'",
    "tune --methods vptt --space adamw --dry-run": "'vpt'",
    "measure --methods vppt": "'vpt'",
}
PROBE = """
import sys
from vpbench.cli.app import main
for line in sys.stdin:
    sys.argv = ["vpbench", *line.split()]
    try:
        main()
    except SystemExit as stop:
        print(stop.code, "torch" in sys.modules, flush=True)
"""


@pytest.mark.sweep
def test_mistyped_names_are_told_before_torch_is_imported(tmp_path: Path) -> None:
    (tmp_path / "typed.toml").write_text('methods = ["linaer"]\n')
    done = subprocess.run(
        [sys.executable, "-c", PROBE], input="\n".join(MISTYPED), capture_output=True, text=True, env=environment(), cwd=tmp_path
    )  # fmt: skip
    assert done.stdout.split("\n")[:-1] == ["2 False"] * len(MISTYPED), done.stderr
    lines = done.stderr.splitlines()
    assert len(lines) == len(MISTYPED)
    for line, wanted in zip(lines, MISTYPED.values()):
        assert f"Did you mean {wanted}?" in line
    assert [path.name for path in tmp_path.iterdir()] == ["typed.toml"]


def test_runs_are_listed_with_their_ids(results: Path, command: list[str]) -> None:
    stored = rows(results).sort_values("started_at")
    done = vpbench(*command, results, "--methods", "linear,vpt")
    short = stored["run_id"].str[:8].tolist()
    assert f"Runs: {short[0]} linear, {short[1]} vpt. More of them: vpbench show run --results {results}" in done.out
    done = vpbench("show", "run", "--results", results)
    heads, *lines, last = done.out.splitlines()
    assert heads.split() == ["run", "method", "dataset", "backbone", "seed", "score", "status"]
    assert [line.split()[:2] for line in lines] == [[short[0], "linear"], [short[1], "vpt"]]
    assert last.startswith(f"2 runs in {results}.")
    listed = json.loads(vpbench("show", "run", "--results", results, "--json").out)
    assert [run["run_id"] for run in listed] == stored["run_id"].tolist()
    assert listed[0]["score"] == pytest.approx(stored["score"].iloc[0])
    for words, code in (
        (("show", "run", "--results", results / "nowhere"), 5), (("show", "method"), 2), (("show", "run", "--as-command"), 2)
    ):  # fmt: skip
        assert vpbench(*words).code == code


def test_what_a_run_shows_is_in_the_order_of_questions(results: Path) -> None:
    run = rows(results).query("method == 'vpt'").iloc[0]
    shown = vpbench("show", "run", run["run_id"][:6], "--results", results).out
    heads = [line for line in shown.splitlines() if not line.startswith(" ")]
    assert heads[:5] == ["run", "result", "cost", "data", "options"]
    assert "environment" in heads[:10] and any(head.startswith("repeat_with: vpbench run --methods vpt") for head in heads)
    assert f"  acc1: {run['acc1']:.6g} %" in shown
    for absent in ("None", "error", "trained_run", "spec:", ": nan"):
        assert absent not in shown
    assert shown.count("  lr:") == shown.count("prompt_length:") == 1


def test_the_command_of_another_seed(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unmeasured: None) -> None:
    """With a relative path as it was typed, and the same run."""
    monkeypatch.chdir(tmp_path)
    write_images(tmp_path / "photos", counts=(2, 1, 1))
    words = "run --data photos --methods linear --image-size 40 --epochs 1 --precision fp32 --save none --seeds 2 --results runs"
    done = vpbench(*words.split())
    assert done.code == 0, done.err
    assert "seeds 42, 44: the first 2 of the suite custom, whose list is 42, 44, 82, 100, 800." in done.err
    second = rows(tmp_path / "runs").query("seed == 44")["run_id"].item()
    assert f"{second[:8]} 44" in done.out
    again = vpbench("show", "run", second[:8], "--as-command", "--results", "runs")
    assert "--data photos " in again.out and "--seeds 2" in again.out
    planned = json.loads(vpbench(*shlex.split(again.out)[1:], "--results", "runs", "--save", "none", "--dry-run", "--json").out)
    assert (second, "stored") in {(run["run_id"], run["status"]) for run in planned}


@pytest.mark.parametrize("kind", ["methods", "datasets", "suites", "searches", "backbones", "tables"])
def test_lists_have_a_line_for_each_entry(kind: str) -> None:
    listed = json.loads(vpbench("list", kind, "--json").out)
    lines = vpbench("list", kind).out.splitlines()
    assert [line.split()[0] for line in lines[1 : len(listed) + 1]] == [entry["name"] for entry in listed]


@pytest.mark.parametrize(("group", "command"), [("new", "method"), ("data", "doctor")])
def test_a_group_lists_its_commands(group: str, command: str) -> None:
    done = vpbench(group)
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    assert len(lines) < 12
    assert any(line.split()[0] == command for line in lines)
    for text in (done.out, vpbench(group, "--help").out):
        assert "--install-completion" not in text


def test_lists_fit_a_terminal() -> None:
    from vpbench.cli.listing import _fitted

    assert _fitted({"name": 10, "group": 8, "summary": 60, "presets": 30}, 60) == {"name": 10, "group": 8, "summary": 36}
    assert _fitted({"name": 10, "title": 20}, 80) == {"name": 10, "title": 20}
    assert _fitted({}, 80) == {}
