"""A Swin through the whole engine: planned, trained, measured and stored."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from timm.models import SwinTransformer, _registry

import vpbench

NAME = "swin_for_tests"


def entrypoint(pretrained: bool = False, **arguments: Any) -> SwinTransformer:
    """Four small blocks, built as timm builds its own."""
    sizes = {"img_size": 32, "embed_dim": 32, "depths": (2, 2), "num_heads": (2, 4), "window_size": 4}
    return SwinTransformer(**{**sizes, **{key: value for key, value in arguments.items() if key in (*sizes, "num_classes")}})


@pytest.fixture
def known_to_timm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(_registry._model_entrypoints, NAME, entrypoint)


@pytest.mark.sweep  # the same path as on a ViT, and the contract has Swin itself
@pytest.mark.usefixtures("known_to_timm")
def test_vpt_on_digits(tmp_path: Path) -> None:
    table = vpbench.run(
        ["linear", "vpt"],
        "mini",
        datasets=["digits"],
        backbone=NAME,
        weights="random",
        image_size=32,
        epochs=1,
        device="cpu",
        results=tmp_path,
        settings={"vpt.prompt_length": 3},
    )
    assert set(table["status"]) == {"ok"}, table[["method", "status", "error"]].to_string()
    assert (table["flops_forward"] > 0).all() and table["macs_fvcore"].notna().all()
    assert dict(zip(table["method"], table["params_method"])) == {"linear": 0, "vpt": 3 * (2 * 32 + 2 * 64)}
