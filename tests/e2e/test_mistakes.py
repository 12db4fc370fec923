"""What a user can get wrong: one line that names the value and a way out, an exit code, and a store that is as before."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from command import Outcome, rows, traces, vpbench, write_images

from vpbench.core.errors import UsageError
from vpbench.spec.budget import Budget
from vpbench.spec.flag import flags_of
from vpbench.spec.request import Request
from vpbench.spec.run_options import RunOptions


def check(done: Outcome, code: int, *parts: str) -> None:
    """``done`` failed with ``code`` and one line that holds all ``parts``."""
    assert done.code == code, done.err
    lines = done.err.splitlines()
    assert len(lines) == 1, done.err
    assert lines[0].startswith("vpbench: ")
    for part in parts:
        assert part in lines[0]
    assert done.out == ""


@pytest.mark.parametrize(
    ("words", "code", "parts"),
    [
        ("--methods linaer", 2, ["'linaer'", "Did you mean 'linear'?"]),
        ("--methods vtp", 2, ["'vtp'", "Did you mean 'vpt'?"]),
        ("--backbone vit_bas_patch16_224", 2, ["'vit_bas_patch16_224'", "Did you mean 'vit_base_patch16_224'?"]),
        ("--corruptions snoww --dry-run", 2, ["'snoww'", "Did you mean 'snow'?"]),
        ("--methods vpt:shalow", 2, ["'shalow'", "Did you mean 'shallow'?"]),
        ("--set recipe.lr=1 --set recipe.lr=2", 2, ["--set recipe.lr is given twice, as 1 and as 2"]),
        ("--epochs 1 --set recipe.epochs=2", 2, ["--epochs", "--set recipe.epochs=2", "keep one"]),
        ("--methods vpt:shallow --set vpt.deep=true", 2, ["vpt.deep=True undoes what vpt:shallow is"]),
        ("--image-size 1000000", 2, ["image size 1000000", "smaller --image-size"]),
        ("--methods ,", 2, ["--methods", "vpbench list methods"]),
        ("--methods vpt --set vpt.promt_length=3", 2, ["'promt_length'", "Did you mean 'prompt_length'?"]),
        ("--methods vpt --set vpt.prompt_length=abc", 2, ["vpt.prompt_length", "must be a whole number", "'abc'"]),
        ("--methods vpt --set vpt.prompt_length=0", 2, ["vpt.prompt_length", "at least 1", "given: 0"]),
        ("--methods vpt --set vpt.prompt_length", 2, ["vpt.prompt_length", "METHOD.OPTION=VALUE"]),
        ("--methods vpt --set prompt_length=3", 2, ["prompt_length", "METHOD.OPTION=VALUE"]),
        ("--methods vpt --set insvp.n=3", 2, ["insvp", "--methods vpt"]),
        ("--set recipe.rate=1", 2, ["'rate'", "batch_size"]),
        ("--set preprocess.random_flip=false", 2, ["--set preprocess.random_flip", "vpbench new suite"]),
        ("--set recipe.lr=-1", 2, ["recipe.lr", "greater than 0", "-1"]),
        ("--set recipe.lr=NaN", 2, ["recipe.lr", "finite"]),
        ("--set recipe.optimizer=adam", 2, ["recipe.optimizer", "'sgd' or 'adamw'", "'adam'"]),
        ("--suite mini", 2, ["--suite", "--data"]),
        ("--datasets digits", 2, ["--datasets", "--data"]),
        ("--backbone vit-nono", 2, ["'vit-nono'", "Did you mean 'vit-nano'?"]),
        ("--backbone resnet18 --weights random", 6, ["ResNet cannot carry prompts", "choose a ViT"]),
        ("--image-size 41", 2, ["41", "patch size 8", "take 40"]),
        ("--seeds 0", 2, ["--seeds 0", "at least 1"]),
        ("--seeds 99999999 --dry-run", 2, ["--seeds 99999999", "take at most 1,000"]),
        ("--device tpu", 2, ["tpu", "auto, cpu or cuda"]),
        ("--precision fp16", 2, ["'fp16'", "bf16"]),
        ("--selection best_test", 2, ["'best_test'", "best_val"]),
        ("--save feature", 2, ["'feature'", "Did you mean 'features'?"]),
        ("--save none,weights", 2, ["--save none,weights", "none stands alone"]),
        ("--test-on nowhere --dry-run", 2, ["unknown dataset 'nowhere'"]),
        ("--scales 0.5 --dry-run", 2, ["--scales is for segmentation, and a run here is of classification"]),
        ("--epochs 999999999999 --dry-run", 2, ["epochs", "at most 100000"]),
        ("--noise loud", 2, ["--noise loud", "0,0.1,0.2"]),
        ("--noise 0,-0.1", 2, ["--noise -0.1", "from 0 up"]),
        ("--noise nan", 2, ["--noise nan", "0,0.1,0.2"]),
        ("--wise-ft inf", 2, ["--wise-ft inf", "0,0.25"]),
        ("--noise ,", 2, ["--noise", "0,0.1,0.2"]),
        ("--weights {missing}/weights.pth", 4, ["{missing}/weights.pth", "no such file"]),
        ("--weights {other}", 4, ["{other}", "does not match", "Choose the backbone"]),
        ("--backbone vit_base_patch16_gap_224 --image-size 32", 4, ["vit_base_patch16_gap_224", "--weights random"]),
        ("--timeout 99999999999999d", 2, ["--timeout 99999999999999d", "1000 days", "never"]),
        (f"--timeout {'9' * 400}", 2, ["--timeout 999", "...", "never"]),
        (f"--checkpoint-every {'9' * 400}d", 2, ["--checkpoint-every 999", "never"]),
        (f"--methods vpt --set vpt.prompt_length={'9' * 5000}", 2, ["vpt.prompt_length", "..."]),
        (f"--methods vpt --set vpt.prompt_length={'[' * 100_000}", 2, ["vpt.prompt_length", "..."]),
        (f"--methods vpt --set vpt.prompt_length={'[' * 900 + ']' * 900}", 2, ["vpt.prompt_length", "..."]),
        (f"--set recipe.lr={'9' * 400}", 2, ["recipe.lr", "..."]),
        (f"--set recipe.lr={'9' * 5000}", 2, ["recipe.lr", "..."]),
        (f"--methods {'x' * 5000}", 2, ["unknown method 'xxx"]),
        ("--data {missing}/images", 3, ["{missing}/images", "does not exist", "give a folder"]),
    ],
)
def test_run_refuses(
    words: str, code: int, parts: list[str], results: Path, command: list[str], tmp_path: Path, other_weights: Path
) -> None:
    def filled(text: str) -> str:
        return text.format(missing=tmp_path / "nowhere", other=other_weights)

    before = traces(tmp_path)
    check(vpbench(*command, results, *filled(words).split()), code, *map(filled, parts))
    assert traces(tmp_path) == before


@pytest.mark.parametrize(
    ("words", "code", "parts"),
    [
        ("run --suite minni --results {results}", 2, ["'minni'", "Did you mean 'mini'?"]),
        ("show", 2, ["vpbench show method, recipe, dataset"]),
        ("run --datasets digit --results {results}", 2, ["'digit'", "Did you mean 'digits'?"]),
        ("run --suite custom --results {results}", 2, ["custom", "--data"]),
        ("report --table 99 --results {results}", 2, ["99"]),
        ("report --plot tsnee --results {results}", 2, ["'tsnee'", "Did you mean 'tsne'?"]),
        ("list method", 2, ["'method'", "Did you mean 'methods'?"]),
        ("show thing vpt", 2, ["'thing'", "method"]),
        ("show method vptt", 2, ["'vptt'", "Did you mean 'vpt'?"]),
        ("show run ffffffff --results {results}", 5, ["ffffffff", "--results"]),
        ("show method", 2, ["show method", "say its name"]),
        ("data convert cub", 2, ["cub cannot be converted from tfds; 'vpbench data get cub' fetches it. From tfds: vtab."]),
        ("data doctor cub --data-root {results}/file", 2, ["file is a file", "--data-root"]),
    ],
)
def test_other_commands_refuse(words: str, code: int, parts: list[str], results: Path) -> None:
    (results / "file").touch()
    before = traces(results)
    done = vpbench(*words.format(results=results).split())
    if parts:
        check(done, code, *parts)
    assert done.code == code
    assert traces(results) == before


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        ("run --suite mini --suite fgvc", ["--suite is given 2 times: give it once."]),
        ("run --methods linear --methods vpt", ["--methods is given 2 times: give it once; several values go with commas."]),
        ("run --threads 1 --threads=2 --threads 3", ["--threads is given 3 times"]),
        ("report --suite a --suite b", ["--suite is given 2 times"]),
        ("data get --suite fgvc --suite hta", ["--suite is given 2 times"]),
        ("check --tolerance loss=1 --tolerance loss=2", ["--tolerance loss is given twice, as 1 and as 2"]),
    ],
)
def test_what_is_given_twice(words: str, parts: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    check(vpbench(*words.split(), as_given=True), 2, *parts)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "name"),
    [
        ("run --data EMPTY --dry-run", "--data"),
        ("run --results=EMPTY", "--results"),
        ("report --html EMPTY", "--html"),
        ("export --to EMPTY", "--to"),
        ("show run EMPTY", "NAME"),
        ("import EMPTY", "SOURCE..."),
    ],
)
def test_an_empty_value_is_not_the_working_folder(words: str, name: str) -> None:
    """As of a variable of the shell that is not set."""
    done = vpbench(*(word.replace("EMPTY", "") for word in words.split()), as_given=True)
    check(done, 2, f"{name} is empty: give a value, or leave it out.")


def test_published_data_that_is_not_there(tmp_path: Path) -> None:
    """All that a suite misses is named at once, with what a person can do."""
    before = traces(tmp_path)
    done = vpbench("run", "--suite", "fgvc", "--methods", "vpt", "--data-root", tmp_path, "--results", tmp_path / "new")
    check(done, 3, "cub, nabirds, flowers, dogs, cars of fgvc are not in", str(tmp_path), "data get --suite fgvc", "VPBENCH_DATA")
    done = vpbench("run", "--suite", "vtab1k-natural", "--data-root", tmp_path, "--results", tmp_path / "new")
    check(done, 3, "vtab.cifar100", "vpbench data convert --suite vtab1k-natural", "vtab.sun397")
    assert traces(tmp_path) == before


@pytest.mark.parametrize(
    ("words", "part"),
    [
        ("run --metods vpt", "no such option --metods. Did you mean --methods? See vpbench run --help."),
        ("runn", "no such command 'runn'"),
        ("list", "missing argument 'KIND': methods, datasets, suites, backbones"),
        ("logs", "missing argument 'RUN': "),
        ("status now", "(now). See vpbench status --help."),
        ("data gett", "no such command 'gett'"),
        ("report --compare vpt", "See vpbench report --help."),
    ],
)
def test_words_that_are_no_command(words: str, part: str) -> None:
    check(vpbench(*words.split()), 2, part)


def whole_numbers() -> list[tuple[str, int | None]]:
    """Commands with an option that takes a whole number, and the least that it takes."""
    models = {"run": (Request, RunOptions), "tune": (Budget, RunOptions)}
    own = {
        "measure --image-size": 1, "measure --classes": 1, "measure --batch": 1, "measure --repeat": 1, "measure --threads": 1,
        "show method vpt --classes": 1, "show method vpt --image-size": 1, "predict RUN a.png --top": 1,
        "predict RUN a.png --batch": 1, "report --seed": None, "export --to rows.csv --seed": None,
    }  # fmt: skip
    declared = {
        f"{command} {flag.name or '--' + name.replace('_', '-')}": flag.least
        for command, of_command in models.items()
        for model in of_command
        for name, _, flag in flags_of(model)
        if flag.kind is int
    }
    return [*declared.items(), *own.items()]


@pytest.mark.parametrize(("words", "least"), whole_numbers())
def test_whole_numbers(words: str, least: int | None) -> None:
    """In words of ours, by every option that takes one."""
    option = words.split()[-1]
    allowed = "" if least is None else f" of at least {least}"
    for value in ("abc", "1.5", *([] if least is None else [str(least - 1)])):
        check(vpbench(*words.split(), value), 2, f"{option} {value}: take a whole number{allowed}.")
    assert least is not None or "--seed" in option


def test_whole_numbers_in_python() -> None:
    for value in ("abc", 0, 1.5, True):
        with pytest.raises(UsageError, match=rf"epochs: take a whole number of at least 1 \(given: {value!r}\)"):
            Request.from_keywords(epochs=value)
    assert (Request.from_keywords(epochs="3").epochs, Request.from_keywords(epochs=np.int64(3)).epochs) == (3, 3)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_no_gpu(results: Path, command: list[str]) -> None:
    check(vpbench(*command, results, "--device", "cuda"), 2, "--device cuda", "cpu or auto")
    check(vpbench(*command, results, "--device", "cuda", "--dry-run"), 2, "--device cuda", "cpu or auto")


def test_broken_image(results: Path, images: Path, tmp_path: Path, unmeasured: None) -> None:
    data = Path(shutil.copytree(images, tmp_path / "broken"))
    broken = data / "test" / "c1" / "2.png"
    other = data / "test" / "c2" / "1.png"
    third = data / "train" / "c0" / "0.png"
    for path in (broken, other, third):
        path.write_bytes(path.read_bytes()[:200])
    before = traces(results)
    words = ("run", "--data", data, "--methods", "linear", "--image-size", 40, "--epochs", 1, "--save", "none")
    done = vpbench(*words, "--results", results)
    check(done, 3, str(broken), "repair or remove it", f"The same is true of 2 more images: {other}, {third}.")  # all at once
    assert "--skip-unreadable leaves them out" in done.err
    assert traces(results) == before
    done = vpbench(*words, "--results", tmp_path / "new", "--skip-unreadable")
    assert done.code == 0, done.err
    assert "Left out, as they cannot be read: 3 images" in done.err
    (row,) = rows(tmp_path / "new").to_dict("records")
    assert (row["n_train"], row["n_test"], json.loads(row["spec"])["data"]["unreadable"]) == (17, 10, 3)
    line = vpbench("show", "run", row["run_id"], "--as-command", "--results", tmp_path / "new").out
    assert "--skip-unreadable" in line
    again = vpbench(*line.split()[1:], "--results", tmp_path / "new", "--save", "none", "--dry-run")
    assert "1 run, 1 stored" in again.out, again.err


def test_one_class(results: Path, tmp_path: Path) -> None:
    data = write_images(tmp_path / "alone", classes=1)
    check(vpbench("run", "--data", data, "--results", results), 3, str(data), "one class only", "'c0'", "two or more")


def test_no_validation_images_for_the_best_epoch(tmp_path: Path) -> None:
    """A single image per class cannot be split, so validation stays empty."""
    data = write_images(tmp_path / "few", counts=(1, 0, 1))
    shutil.rmtree(data / "val")
    done = vpbench("run", "--data", data, "--selection", "best_val", "--methods", "linear", "--results", tmp_path / "new")
    lines = done.err.splitlines()
    assert done.code == 2
    assert lines[-1].startswith("vpbench: few has no validation images")
    assert "--selection last" in lines[-1]
    assert not (tmp_path / "new").exists()


def test_no_validation_images_for_pruning(tmp_path: Path) -> None:
    data = write_images(tmp_path / "few", counts=(1, 0, 1))
    shutil.rmtree(data / "val")
    done = vpbench("run", "--data", data, "--methods", "e2vpt", "--results", tmp_path / "new")
    assert done.code == 2
    assert done.err.splitlines()[-1].startswith("vpbench: few has no validation images, and e2vpt chooses between candidates")
    assert not (tmp_path / "new").exists()


def test_results_below_a_file(tmp_path: Path, command: list[str]) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("mine")
    check(vpbench(*command, file / "runs", "--methods", "linear"), 5, str(file / "runs"), "--results FOLDER")
    assert file.read_text() == "mine"


def test_own_data_is_called_by_its_folder(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when that is the current folder, or its name has a dot in it."""
    dotted = Path(shutil.copytree(images, tmp_path / "v1.5"))
    monkeypatch.chdir(dotted)
    for path in (".", dotted, "train/.."):
        shown = vpbench("run", "--data", path, "--methods", "linear", "--results", tmp_path / "new", "--dry-run")
        assert "v1.5" in shown.out
