"""Several backbones in one command: ``--backbone a,b``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command import rows, vpbench

import vpbench as python
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
