"""Several backbones in one command: ``--backbone a,b``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import timm
import torch
from command import rows, vpbench

import vpbench as python
from vpbench.backbones import weights
from vpbench.backbones.weights import fill
from vpbench.search.search_plan import plan_search
from vpbench.spec.budget import Budget
from vpbench.spec.request import Request

BOTH = "vit-nano,vit_tiny_patch16_224"


@pytest.mark.sweep
@pytest.mark.usefixtures("unmeasured")
def test_runs_on_each_backbone(command: list[str], tmp_path: Path) -> None:
    words = ("--methods", "linear", "--backbone", BOTH, "--weights", "random", "--image-size", 32, "--save", "none")
    done = vpbench(*command, tmp_path / "runs", *words)
    assert done.code == 0, done.err
    frame = rows(tmp_path / "runs")
    assert sorted(frame["backbone"]) == sorted(BOTH.split(","))
    for name in BOTH.split(","):  # each is the run that the backbone alone has
        assert f"linear on grey, seed 42 ({name}): " in done.err
        (alone,) = json.loads(vpbench(*command, tmp_path / "runs", *words, "--backbone", name, "--dry-run", "--json").out)
        assert (alone["status"], alone["backbone"]) == ("stored", name)
    assert "2 runs, 2 stored" in vpbench(*command, tmp_path / "runs", *words, "--dry-run").out


def test_a_weight_file_is_for_one_backbone(images: Path, tmp_path: Path) -> None:
    file = tmp_path / "vit.safetensors"
    file.write_bytes(b"weights")
    with pytest.raises(python.core.errors.UsageError, match=r"is one file, and --backbone names vit-nano, vit_tiny"):
        python.run("linear", data=str(images), backbone=BOTH, weights=file, progress=False)


def test_a_search_for_each_backbone(images: Path) -> None:
    request = Request.model_validate(
        {"methods": "linear", "data": str(images), "backbone": BOTH, "weights": "random", "image_size": 32, "precision": "fp32"}
    )
    plan = plan_search(request, Budget(space="adamw", trials=2, seeds=1))
    assert [study.backbone.name for study in plan.studies] == BOTH.split(",")
    assert f"on each data set (grey) and each backbone ({BOTH.replace(',', ', ')})" in plan.summary()
    for study in plan.studies:
        values = {"recipe.lr": 0.01, "recipe.weight_decay": 0.1}
        runs = [study.trial(values, None), *plan.runs_with(study, values)]
        assert {run.spec.backbone.name for run in runs} == {study.backbone.name}


# --- weight files of a dry run

SMALL = ("--backbone", "test_vit", "--image-size", 32, "--methods", "linear", "--dry-run")
BAD: dict[str, tuple[object, str]] = {
    "diverged": (torch.tensor(float("nan")), "norm.bias has NaN or infinite values"),
    "quantised": (torch.zeros(64, dtype=torch.int8), "norm.bias has int8, not floating point"),
    "misshapen": (torch.zeros(7), "1 of another shape (norm.bias (7,) instead of (64,))"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_dry_run_refuses_what_a_run_refuses(kind: str, command: list[str], tmp_path: Path) -> None:
    value, words = BAD[kind]
    content = timm.create_model("test_vit", img_size=32, num_classes=0).state_dict()
    torch.save(content | {"norm.bias": value.expand(64) if kind == "diverged" else value}, tmp_path / "a.pth")  # type: ignore[attr-defined]
    done = vpbench(*command, tmp_path / "runs", *SMALL, "--weights", tmp_path / "a.pth")
    assert (done.code, done.out) == (4, "")
    assert words in done.err and done.err.startswith(f"vpbench: {tmp_path / 'a.pth'}") and len(done.err.splitlines()) == 1


def test_a_dry_run_loads_a_file_once_and_says_what_else_it_holds(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    content = timm.create_model("test_vit", img_size=32, num_classes=0).state_dict()
    torch.save({"model": content, "model_ema": content}, tmp_path / "two.pth")
    loaded: list[Path] = []
    monkeypatch.setattr(weights, "fill", lambda model, path, *rest: loaded.append(path) or fill(model, path, *rest))
    words = (*SMALL, "--methods", "linear,vpt", "--seeds", 2, "--weights", tmp_path / "two.pth")
    done = vpbench(*command, tmp_path / "runs", *words)
    assert done.code == 0, done.err
    assert done.err.count("note on the weights: two.pth holds the state dicts 'model' and 'model_ema': 'model' is loaded.") == 1
    assert loaded == [tmp_path / "two.pth"]


def test_a_dry_run_says_what_is_downloaded(command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.delenv("VPBENCH_WEIGHTS", raising=False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    done = vpbench(*command, tmp_path / "runs", *SMALL, "--backbone", "vit-tiny-augreg")
    assert "Not here, downloaded by the first run: the weights of vit-tiny-augreg, timm/" in done.out
    assert ", at least 22.1 MB.\n" in done.out
