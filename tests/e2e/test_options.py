"""Options are declared once, on the fields of models; commands and the Python interface take them from there."""

from __future__ import annotations

import inspect
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from command import environment, vpbench
from typer.main import get_command

import vpbench as package
from vpbench.cli.app import COMMANDS, app
from vpbench.core.errors import UsageError
from vpbench.spec.budget import Budget
from vpbench.spec.flag import flags_of, option_keys
from vpbench.spec.parsing import seconds
from vpbench.spec.request import Request
from vpbench.spec.run_options import JobOptions, RunOptions

PINNED = json.loads((Path(__file__).parent / "data" / "help.json").read_text())


def options_of(command: Any) -> dict[str, dict[str, Any]]:
    """The options of a command by name, as ``data/help.json`` has them."""
    return {
        " ".join(option.opts): {
            "help": option.help,
            "metavar": option.metavar,
            "default": None if option.default is None or "UNSET" in repr(option.default) else str(option.default),
            "multiple": option.multiple,
            "flag": option.is_flag,
        }
        for option in command.params
        if option.param_type_name == "option"
    }


@pytest.mark.parametrize("name", PINNED)
def test_options_stay(name: str) -> None:
    """Their names, help, defaults and kinds, and the text above them. Change the file when you change them on purpose."""
    group: Any = get_command(app)
    command = group.commands[name].built()
    assert command.help == PINNED[name]["help"]
    assert options_of(command) == PINNED[name]["options"]


@pytest.mark.parametrize("name", COMMANDS)
def test_the_list_of_commands_says_what_their_own_help_says(name: str) -> None:
    """It is written beside their names, so that none of them is imported for it."""
    group: Any = get_command(app)
    assert COMMANDS[name][1] == " ".join(group.commands[name].built().help.split("\n\n")[0].split())


@pytest.mark.parametrize("model", [Request, RunOptions, Budget])
def test_a_default_that_is_shown_is_the_default(model: Any) -> None:
    for name, field, flag in flags_of(model):
        assert field.description, name
        if flag.shown is not None:
            parsed = flag.parse(flag.shown) if flag.parse else flag.shown
            assert getattr(model.from_keywords(**{name: parsed}), name) == getattr(model(), name), name


def test_the_signature_of_run_lists_all_fields() -> None:
    parameters = inspect.signature(package.run).parameters
    assert {*Request.model_fields, *RunOptions.model_fields, "results", "callback", "progress"} == set(parameters)
    searched = {*Request.model_fields, *Budget.model_fields, *RunOptions.model_fields, "results", "callback", "progress"}
    assert searched == set(inspect.signature(package.tune).parameters)
    assert parameters["seeds"].default == 1
    assert parameters["timeout_s"].default is None
    assert list(parameters)[:2] == ["methods", "suite"]
    assert "timeout_s: Give up a run" in (inspect.getdoc(package.run) or "")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"timeout": 3}, r"unknown argument of vpbench.run 'timeout'. Did you mean 'timeout_s'?"),
        ({"set": {"vpt.prompt_length": 3}}, r"unknown argument of vpbench.run 'set'. Did you mean 'settings'?"),
        ({"datasets": 3}, "datasets: write names, as a list or as a text with commas (given: 3)"),
        ({"seeds": "many"}, "seeds: "),
        ({"save": ["curves"]}, "unknown thing to --save 'curves'. Did you mean 'curve'?"),
        ({"noise": []}, "--noise names no standard deviation"),
        ({"workers": 2, "executor": "inline"}, "--workers is nothing for --executor inline"),
    ],
)
def test_run_refuses(fields: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        package.run("linear", results=tmp_path / "runs", **fields)
    assert not (tmp_path / "runs").exists()


def test_none_is_the_default_where_a_field_cannot_be_none() -> None:
    options = RunOptions.from_keywords(save=None, checkpoint_s=None, executor_options=None)
    assert options == RunOptions(checkpoint_s=None)
    assert options.checkpoint_s is None  # no checkpoints, which is not the default
    assert Request.from_keywords(methods=None, settings=None) == Request()


def test_a_run_gets_the_options_of_a_job() -> None:
    options = RunOptions(save=("curve",), noise=(0.1,), threads=2, workers=3)
    assert options.of_a_job == JobOptions(save=("curve", "weights"), threads=2)
    assert set(JobOptions.model_fields) < set(RunOptions.model_fields)


@pytest.mark.parametrize(
    ("text", "value"),
    [("5", 5), ("90s", 90), ("30m", 1800), ("1.5h", 5400), ("1h30m", 5400), ("1d2h3m4s", 93784), ("never", None)],
)
def test_times(text: str, value: float | None) -> None:
    assert seconds("--timeout", text) == value


@pytest.mark.parametrize("text", ["soon", "", "0", "0h0m", "1h30", "30m1h", "5x", "h", "-3", "1 h"])
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(UsageError, match=r"write a time such as 90s, 30m, 1h30m or 1d \(a number alone: seconds\), or never"):
        seconds("--timeout", text)


def test_what_the_keywords_of_options_are_called() -> None:
    """Those that are not called as the option are in the README, and a slip names them."""
    keys = option_keys(Request, Budget, RunOptions)
    others = {
        "set": "settings",
        "timeout": "timeout_s",
        "checkpoint_every": "checkpoint_s",
        "executor_option": "executor_options",
    }
    assert {key: name for key, name in keys.items() if key != name} == others
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    assert all(f"`{name}`" in readme for name in others.values())


def test_a_mistake_in_an_option_is_named(tmp_path: Path) -> None:
    for words, message in (
        (["--timeout", "soon"], "--timeout soon: write a time such as 90s"),
        (["--checkpoint-every", "0"], "--checkpoint-every 0: write a time such as 90s"),
        (["--gpus", "a"], "--gpus a: write whole numbers with commas, e.g. --gpus 0,2."),
        (["--set", "lr"], "--set lr: write METHOD.OPTION=VALUE, e.g. --set vpt.prompt_length=50."),
        (["--executor-option", "x"], "--executor-option x: write NAME=VALUE, e.g. --executor-option partition=gpu."),
        (["--noise", "much"], "--noise much: write numbers with commas, e.g. --noise 0,0.1,0.2."),
    ):
        done = vpbench("run", "--results", tmp_path / "runs", *words)
        assert done.code == 2
        assert done.err.startswith(f"vpbench: {message}")


LIGHT = """
import sys
from vpbench.cli.app import main
try:
    main()
finally:
    print([name for name in ("torch", "pandas", "pydantic", "numpy") if name in sys.modules], file=sys.stderr)
"""


def test_help_imports_no_library_of_runs() -> None:
    done = subprocess.run([sys.executable, "-c", LIGHT, "--help"], capture_output=True, text=True, env=environment())
    assert (done.returncode, done.stderr) == (0, "[]\n")
    for name in ("run", "tune", "data", "new", "import"):
        assert re.search(rf"^\W*{name} ", done.stdout, re.MULTILINE), name


def test_what_a_stored_run_must_have_left() -> None:
    """Weights are kept by default, and missed where they are asked for: runs of earlier versions have none."""
    assert "weights" in RunOptions().save
    assert set(RunOptions().required) == set(RunOptions().save) - {"weights"}
    assert RunOptions(save="weights").required == ("weights",)
    assert RunOptions(save=()).required == ()
    assert "weights" in RunOptions(noise=(0.1,)).required
