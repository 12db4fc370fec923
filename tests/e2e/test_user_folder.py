"""Cards and code of the user's own: written by ``vpbench new``, found beside the work, and used at once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import timm
import torch
from command import Outcome, row_files, rows, traces, vpbench, write_images

pytestmark = pytest.mark.usefixtures("work")


def trained(*words: object) -> Outcome:
    return vpbench("run", *words, "--epochs", 1, "--device", "cpu", "--precision", "fp32", "--image-size", 40)


def test_a_method_suite_data_set_and_table_of_ones_own(work: Path, unmeasured: None) -> None:
    write_images(work / "photos")
    write_images(work / "owls", classes=2)
    made = [
        vpbench("new", "method", "my_prompts"),
        vpbench("new", "dataset", "my-photos", "--data", "photos"),
        vpbench("new", "suite", "mine", "--datasets", "my-photos", "--data", "owls"),
        vpbench("new", "table", "overview"),
    ]
    for done in made:
        assert done.code == 0, done.err
    folder = work / "vpbench_user"
    assert made[0].out.split() == [
        str(folder / "methods" / "my_prompts.py"), str(folder / "tests" / "methods" / "test_my_prompts.py"),
        str(work / "vpbench.toml"),
    ]  # fmt: skip
    assert made[0].err == "Next: vpbench run --methods my_prompts\n"
    assert made[1].out.split() == [str(folder / "datasets" / "my-photos.toml")]

    assert "my_prompts" in vpbench("list", "methods").out
    assert vpbench("show", "method", "my_prompts").code == 0
    assert vpbench("data", "doctor", "my-photos").out.splitlines()[0].split()[:2] == ["my-photos", "ready"]
    assert vpbench("data", "verify", "my-photos", "--images").code == 0
    done = trained("--suite", "mine", "--methods", "linear,my_prompts", "--results", "runs")
    assert done.code == 0, done.err
    found = rows(work / "runs")
    assert sorted(zip(found["method"], found["dataset"], found["dataset_group"])) == [
        ("linear", "my-photos", "own"), ("linear", "owls", "custom"),
        ("my_prompts", "my-photos", "own"), ("my_prompts", "owls", "custom"),
    ]  # fmt: skip
    assert set(found["suite"]) == {"mine"}
    table = vpbench("report", "--table", "overview", "--results", "runs")
    assert table.code == 0, table.err
    assert "my_prompts" in table.out
    assert vpbench("report", "--results", "runs").code == 0

    # From another folder they are found by --cards or VPBENCH_PATH, which may stand anywhere.
    again = trained("--suite", "mine", "--methods", "my_prompts", "--results", "runs", "--cards", folder)
    assert "0 of them new" in again.out


@pytest.mark.parametrize("where", ["before", "after", "equals"])
def test_cards_names_a_folder(where: str, work: Path, tmp_path: Path) -> None:
    assert vpbench("--cards", tmp_path / "lab", "new", "method", "lab_prompts").code == 0
    assert not (work / "vpbench.toml").exists()
    words = {
        "before": ("--cards", tmp_path / "lab", "list", "methods"), "after": ("list", "methods", "--cards", tmp_path / "lab"),
        "equals": ("list", f"--cards={tmp_path / 'lab'}", "methods"),
    }[where]  # fmt: skip
    assert "lab_prompts" in vpbench(*words).out


def test_a_folder_that_is_not_there() -> None:
    done = vpbench("list", "suites", "--cards", "nowhere")
    assert done.code == 2
    assert "--cards nowhere: there is no such folder" in done.err


def test_files_by_path(work: Path, unmeasured: None) -> None:
    """A method and a suite without a folder of cards; the suite's data by paths."""
    write_images(work / "owls", classes=2)
    vpbench("new", "method", "loose", "--folder", "elsewhere")
    (work / "elsewhere" / "methods" / "loose.py").rename(work / "loose_prompts.py")
    (work / "two.toml").write_text('base = "custom"\ntitle = "two"\ndescription = "d"\n[data]\nowls = "owls"\n')
    done = trained(
        "--suite", "two.toml", "--methods", "./loose_prompts.py", "--set", "loose_prompts.prompt_length=2", "--results", "runs"
    )
    assert done.code == 0, done.err
    (row,) = rows(work / "runs").to_dict("records")
    assert (row["method"], row["suite"], row["dataset"]) == ("loose_prompts", "two", "owls")
    assert json.loads(row["method_config"])["prompt_length"] == 2


@pytest.mark.sweep
def test_worker_processes_find_them(work: Path, workers: None) -> None:
    write_images(work / "owls", classes=2)
    vpbench("new", "method", "my_prompts")
    vpbench("new", "suite", "mine", "--data", "owls")
    done = trained("--suite", "mine", "--methods", "my_prompts", "--results", "runs", "--workers", 1)
    assert done.code == 0, done.err
    assert rows(work / "runs")["status"].tolist() == ["ok"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("dataset digits", "there is a data set 'digits' already"),
        ("dataset a/b", "'a/b' is no name for a data set"),
        ("dataset birds --data nowhere", "nowhere does not exist"),
        ("suite mini", "there is a suite 'mini' already"),
        ("suite mine --data nowhere", "nowhere does not exist"),
        ("suite mine --datasets digit", "Did you mean 'digits'?"),
        ("table 1", "there is a table '1' already"),
        ("backbone vit-nano", "there is a backbone 'vit-nano' already"),
        ("backbone mine --timm resnet50", "ResNet cannot carry prompts"),
        ("backbone mine --weights nowhere.safetensors", "nowhere.safetensors"),
        ("recipe vptt", "Did you mean 'vpt'?"),
        ("search adamw", "there is a search space 'adamw' already"),
    ],
)
def test_mistakes(words: str, message: str, work: Path) -> None:
    done = vpbench("new", *words.split())
    assert done.code in (2, 3, 4, 6)
    assert message in done.err
    assert len(done.err.splitlines()) == 1
    assert traces(work) == {}


def test_every_template_is_a_good_card(work: Path) -> None:
    """As it is written, without an edit."""
    for words in ("dataset d", "suite s", "table t", "search rates", "recipe linear", "backbone b"):
        done = vpbench("new", *words.split())
        assert done.code == 0, done.err
    assert vpbench("data", "verify", "d").code == 0
    assert vpbench("show", "suite", "s").code == 0
    assert json.loads(vpbench("run", "--suite", "s", "--methods", "linear", "--dry-run", "--json").out)[0]["dataset"] == "digits"
    assert vpbench("tune", "--space", "rates", "--datasets", "digits", "--methods", "linear", "--dry-run").code == 0
    shown = vpbench("show", "backbone", "b")
    assert "5524416" in shown.out.replace(",", "")
    assert not row_files(work)


def test_a_backbone_from_a_file(work: Path) -> None:
    weights = work / "test_vit.pth"
    torch.save(timm.create_model("test_vit").state_dict(), weights)
    done = vpbench("new", "backbone", "b", "--timm", "test_vit", "--weights", weights)
    assert done.code == 0, done.err
    text = (work / "vpbench_user" / "backbones" / "b.toml").read_text()
    assert f'file = "{weights}"' in text
    assert "sha256" in text
    from vpbench.backbones.named import resolve_backbone

    assert resolve_backbone("b").weights == "file"


def test_weights_that_do_not_fit_make_no_card(work: Path) -> None:
    from vpbench.core.cards import packaged_file

    done = vpbench("new", "backbone", "b", "--weights", packaged_file("backbones", "vit-nano.safetensors"))
    assert done.code == 4
    assert "vit-nano.safetensors does not match the architecture: " in done.err
    assert traces(work) == {}


def test_new_without_a_terminal_keeps_what_is_there(work: Path) -> None:
    vpbench("new", "suite", "mine")
    file = work / "vpbench_user" / "suites" / "mine.toml"
    file.write_text("# mine\n")
    done = vpbench("new", "suite", "mine")
    assert done.code == 2
    assert file.read_text() == "# mine\n"
