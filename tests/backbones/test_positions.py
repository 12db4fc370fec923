"""Position embeddings on another grid than that of the weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from timm.layers import resample_abs_pos_embed
from tiny_vits import tiny_vit

from vpbench.backbones.positions import resampled
from vpbench.backbones.weights import fill
from vpbench.spec.recipe import Recipe
from vpbench.spec.run_spec import BackboneSpec, DataSpec, MethodSpec, PosResample, Preprocess, RunSpec


@pytest.mark.parametrize("how", ["bicubic", "bilinear"])
def test_weights_of_another_grid(tmp_path: Path, how: PosResample) -> None:
    trained, larger = tiny_vit(), tiny_vit(1, img_size=48)
    path = tmp_path / "weights.safetensors"
    save_file(trained.state_dict(), path)
    fill(larger, path, pos_resample=how)
    expected = resampled(trained.pos_embed, (6, 6), 1, how, (4, 4))
    torch.testing.assert_close(larger.pos_embed, expected, rtol=0, atol=1e-6)
    smooth = resample_abs_pos_embed(trained.pos_embed, [6, 6], [4, 4])
    assert torch.allclose(larger.pos_embed, smooth, atol=1e-6) == (how == "bicubic")


def test_run_ids_know_of_it_where_it_is_not_the_default() -> None:
    backbone = BackboneSpec(
        name="vit-nano", weights="random", image_size=64, patch_size=8, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)
    )
    spec = RunSpec(
        method=MethodSpec(name="linear", config={}), backbone=backbone, preprocess=Preprocess(), recipe=Recipe(), seed=0,
        data=DataSpec(suite="mini-seg", dataset="sprites-shapes", digest="0"),
    )  # fmt: skip
    assert "pos_resample" not in spec.identity()["backbone"]
    other = spec.model_copy(update={"backbone": backbone.model_copy(update={"pos_resample": "bilinear"})})
    assert other.run_id != spec.run_id
