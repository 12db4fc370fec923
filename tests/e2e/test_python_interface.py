"""The five functions of ``import vpbench``."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import torch

import vpbench
from vpbench.core.errors import UsageError
from vpbench.store.schema import COLUMNS


def test_run_gives_the_rows_of_the_request(results: Path, images: Path, unmeasured: None) -> None:
    def run(methods: str | list[str], **more: object) -> pd.DataFrame:
        return vpbench.run(
            methods, data=images, image_size=40, epochs=1, device="cpu", precision="fp32", results=results, save=(), **more
        )

    before = set(vpbench.load_results(results)["run_id"])
    stored = run("linear, vpt")
    assert set(stored["run_id"]) == before
    fresh = run(["vpt"], settings={"vpt.prompt_length": 3})
    assert len(fresh) == 1
    assert set(vpbench.load_results(results)["run_id"]) == before | set(fresh["run_id"])


def test_a_generator_of_artefacts(tmp_path: Path, images: Path, unmeasured: None) -> None:
    frame = vpbench.run(
        ["linear"],
        data=images,
        image_size=40,
        epochs=1,
        device="cpu",
        results=tmp_path,
        save=(name for name in ["curve", "predictions"]),
    )
    kept = tmp_path / "_artefacts" / frame["run_id"].item()
    assert sorted(path.name for path in kept.iterdir()) == ["curve.csv", "predictions.npz"]


def test_no_methods_are_not_all_methods(images: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="names no method"):
        vpbench.run([], data=images, results=tmp_path / "new")
    assert list(tmp_path.iterdir()) == []


def test_empty_results_have_all_columns(tmp_path: Path) -> None:
    frame = vpbench.load_results(tmp_path / "none")
    assert len(frame) == 0
    assert list(frame.columns) == list(COLUMNS)


def test_report(finished: Path, tmp_path: Path) -> None:
    assert "linear" in vpbench.report(table=1, results=finished)
    vpbench.report(table="1", results=finished, format="csv", out=tmp_path / "table.csv")
    assert "vpt" in (tmp_path / "table.csv").read_text()


def test_show(finished: Path) -> None:
    assert vpbench.show("method", "vpt:released")["name"] == "vpt:released"
    run_id = vpbench.load_results(finished)["run_id"].iloc[0]
    assert vpbench.show("run", run_id[:8], finished)["run_id"] == run_id


def test_create_method() -> None:
    model = vpbench.create_method("vpt", "vit_tiny_patch16_224", 100, weights="random", prompt_length=10, image_size=32, seed=0)
    assert {name for name, _ in model.trainable()} == {"own.prompts", "head.weight", "head.bias"}
    assert model.own.prompts.shape == (12, 10, 192)
    logits = model.eval()(torch.zeros(2, 3, 32, 32))
    assert logits.shape == (2, 100)
    logits.sum().backward()
    assert [name for name, tensor in model.backbone.named_parameters() if tensor.requires_grad or tensor.grad is not None] == []
    again = vpbench.create_method("vpt", "vit_tiny_patch16_224", 100, weights="random", prompt_length=10, image_size=32, seed=0)
    assert torch.equal(model.own.prompts, again.own.prompts)


def test_create_method_refuses() -> None:
    with pytest.raises(UsageError, match=r"Did you mean 'prompt_length'\?"):
        vpbench.create_method("vpt", "vit-nano", 3, promt_length=10)
