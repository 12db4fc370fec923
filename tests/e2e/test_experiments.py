"""An experiment as a file: what it becomes, what is wrong with it, and that it does what its commands do."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer
from command import rows, vpbench

from vpbench.cli import options as flags
from vpbench.core.errors import UsageError
from vpbench.experiments import Experiment, read_experiment
from vpbench.spec.budget import Budget
from vpbench.spec.command_words import words_of
from vpbench.spec.request import Request
from vpbench.spec.run_options import RunOptions

FULL = """\
title = "two suites"
suite = ["mini", "ci"]
methods = ["linear", { name = "vpt", options = { prompt_length = 3 }, recipe = { lr = 0.5 } }, "vpt:shallow"]
backbone = "vit-nano, vit_tiny_patch16_224"
weights = "random"
seeds = 2
save = ["curve"]
timeout = "2h"
checkpoint_every = "never"
executor = "local"
results = "out"
noise = [0, 0.1]

[set]
recipe.epochs = 2
vpt.dropout = 0.1
linear.recipe.weight_decay = 0.01
"""


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(tmp_path)

    def write(text: str) -> Path:
        (tmp_path / "exp").mkdir(exist_ok=True)
        (tmp_path / "exp" / "mine.toml").write_text(text)
        return Path("exp/mine.toml")

    return write


def lines(experiment: Experiment) -> list[str]:
    return [step.line() for step in experiment.steps]


def test_the_equivalent_commands(write: Any) -> None:
    """One for each suite, and one more where a method has two sets of settings."""
    experiment = read_experiment(write(FULL))
    assert experiment.results == Path("exp/out")
    how = (
        "--backbone vit-nano,vit_tiny_patch16_224 --weights random --seeds 2 {set}"
        "--save curve --timeout 7200 --checkpoint-every never --noise 0.0,0.1 --executor local"
    )
    first = (
        "--set recipe.epochs=2 --set vpt.dropout=0.1 --set linear.recipe.weight_decay=0.01 "
        "--set vpt.prompt_length=3 --set vpt.recipe.lr=0.5 "
    )
    assert lines(experiment) == [
        f"vpbench run --methods {methods} --suite {suite} {how.format(set=own)}"
        for suite in ("mini", "ci")
        for methods, own in (("linear,vpt", first), ("vpt:shallow", "--set recipe.epochs=2 --set vpt.dropout=0.1 "))
    ]
    assert {step.options.experiment for step in experiment.steps} == {FULL}


def test_some_methods_are_tuned_first(write: Any) -> None:
    text = 'suite = "mini"\nmethods = ["linear", "vpt"]\nseeds = 3\n[tune]\nspace = "adamw"\ntrials = 4\n'
    assert lines(read_experiment(write(text))) == [
        "vpbench tune --methods linear,vpt --suite mini --space adamw --trials 4 --seeds 3"
    ]
    assert lines(read_experiment(write(text + "trial_epochs = 4\n"))) == [
        "vpbench tune --methods linear,vpt --suite mini --space adamw --trials 4 --trial-epochs 4 --seeds 3"
    ]
    assert lines(read_experiment(write(text + 'methods = ["vpt"]\n'))) == [
        "vpbench run --methods linear --suite mini --seeds 3" if run else
        "vpbench tune --methods vpt --suite mini --space adamw --trials 4 --seeds 3"
        for run in (False, True)
    ]  # fmt: skip


def test_paths_are_meant_from_the_file(write: Any, tmp_path: Path) -> None:
    (Path("exp")).mkdir()
    Path("exp/vit.npz").touch()
    experiment = read_experiment(
        write('methods = "linear"\ndata = ["birds", "../cats.parquet", "/far/dogs"]\nweights = "vit.npz"\n')
    )
    (step,) = experiment.steps
    assert step.request.data == ("exp/birds", "cats.parquet", "/far/dogs")
    assert step.request.weights == "exp/vit.npz"


def test_everything_that_is_wrong_is_told_at_once(write: Any) -> None:
    text = """\
suite = ["mini", "cii"]
methods = ["linear", "vptt", { name = "vpt", options = { promt_length = 3 } }]
datasets = "digitz"
epochs = "many"
timeout = "soon"
workrs = 2
save = ["curves"]
weights = "nofile.pth"
[set]
recipe.lrr = 1
[tune]
trails = 3
"""
    with pytest.raises(UsageError) as caught:
        read_experiment(write(text))
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith("exp/mine.toml: ")
    for part in (
        "line 1: unknown suite 'cii'. Did you mean 'ci'?",
        "line 2: unknown method 'vptt'. Did you mean 'vpt'?",
        "line 2: unknown option of vpt 'promt_length'. Did you mean 'prompt_length'?",
        "line 3: unknown data set of suite mini 'digitz'. Did you mean 'digits'?",
        "line 4: epochs: take a whole number of at least 1 (given: 'many')",
        "line 5: --timeout soon: write a time such as 90s",
        "line 6: unknown key 'workrs'. Did you mean 'workers'?",
        "line 7: unknown thing to --save 'curves'. Did you mean 'curve'?",
        "line 8: weights: there is no file or folder exp/nofile.pth",
        "line 10: unknown recipe field 'lrr'. Did you mean 'lr'?",
        "line 12: unknown key 'tune.trails'. Did you mean 'tune.trials'?",
    ):
        assert part in message, message
    assert "Known: " not in message
    numbers = [int(number) for number in re.findall(r"line (\d+): ", message)]
    assert numbers == sorted(numbers) and len(numbers) == 11
    assert len(message) < 1000


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("methods = 3", "line 1: methods: write a list of names"),
        ("methods = []", "line 1: methods: it names no method"),
        ("methods = [3]", "methods.0: write a name"),
        ('methods = [{ name = "vpt", optons = {} }]', "unknown key of a method 'optons'. Did you mean 'options'?"),
        ('title = 3', "line 1: title: write a text"),
        ('methods = "linear"\n[set]\nvpt.dropout = 0.2', "line 3: set.vpt.dropout: vpt is not among the methods linear"),
        ('rerun = "failed"\n[tune]\n', "line 1: rerun: a search has no such option"),
        ("suite = [", "is not valid TOML"),
    ],
)  # fmt: skip
def test_mistakes(text: str, part: str, write: Any) -> None:
    with pytest.raises(UsageError) as caught:
        read_experiment(write(text))
    assert part in str(caught.value)


@pytest.mark.usefixtures("unmeasured")
def test_it_runs(write: Any, images: Path, tmp_path: Path) -> None:
    text = f"""\
methods = ["linear"]
data = {json.dumps(str(images))}
image_size = 40
epochs = 1
device = "cpu"
precision = "fp32"
save = "none"
results = "runs"
"""
    file = write(text)
    planned = vpbench("run", file, "--dry-run", "--json")
    assert planned.code == 0, planned.err
    (plan,) = json.loads(planned.out)
    assert plan["plan"][0]["status"] == "missing" and not (tmp_path / "exp" / "runs").exists()
    done = vpbench("run", file)
    assert done.code == 0, done.err
    assert done.out.startswith(f"$ {plan['command']}\n")
    (row,) = rows(tmp_path / "exp" / "runs").to_dict("records")
    assert (row["experiment"], row["status"]) == (text, "ok")
    (again,) = json.loads(vpbench(*shlex.split(plan["command"])[1:], "--dry-run", "--json").out)
    assert (again["run_id"], again["status"]) == (row["run_id"], "stored")
    for words, part in (
        (["--methods", "vpt"], "--methods: exp/mine.toml says what is run"),
        (["exp/none.toml"], "unexpected extra argument"),
    ):
        done = vpbench("run", file, *words)
        assert done.code == 2 and part in done.err
    done = vpbench("run", "none.toml")
    assert done.code == 2 and "there is no experiment file none.toml" in done.err
    Path("empty.toml").write_text('title = "nothing"')
    done = vpbench("run", "empty.toml")
    assert done.code == 2 and "empty.toml says nothing to run" in done.err


@pytest.mark.parametrize(
    "models",
    [
        {},
        {
            "request": {
                "methods": "linear,vpt", "data": ["a, b", "c"], "columns": "image=i,label=l", "background": "red", "seeds": 3,
                "settings": {"vpt.x": True, "recipe.lr": 0.1, "vpt.name": "1", "vpt.none": None, "vpt.list": [1, "a"]},
                "backbone": ["one", "two"], "epochs": 7,
            },
            "options": {
                "save": (), "timeout_s": 5400, "checkpoint_s": None, "gpus": (0, 2), "noise": (0.5,), "checkpoint_blocks": True,
                "executor_options": {"partition": "gpu", "hours": 3}, "workers": 2,
            },
            "budget": {"space": "my.toml", "trials": 3},
        },
        {"options": {"save": ("weights", "curve"), "checkpoint_s": 0.25}},
    ],
)  # fmt: skip
def test_words_of_a_model_are_read_back(models: dict[str, Any]) -> None:
    found: dict[str, Any] = {}

    @flags.takes(
        request="vpbench.spec.request.Request", options="vpbench.spec.run_options.RunOptions",
        budget="vpbench.spec.budget.Budget", without=("budget.seeds",),
    )  # fmt: skip
    def command(request: Request, options: RunOptions, budget: Budget) -> None:
        found.update(request=request, options=options, budget=budget)

    kinds: Any = {"request": Request, "options": RunOptions, "budget": Budget}
    wanted = {name: kind.from_keywords(**models.get(name, {})) for name, kind in kinds.items()}
    app = typer.Typer()
    app.command()(command)
    words = [word for model in wanted.values() for word in words_of(model)]
    typer.main.get_command(app).main(words, standalone_mode=False)
    assert found == wanted
