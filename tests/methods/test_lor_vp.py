"""LoR-VP: golden outputs of the released class, counts, merging."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from timm.models import SwinTransformer

from golden_fill import fill_head, filled_vit, golden_cases, images, load_golden, run_case
from vpbench.backbones.family import adapter_for
from vpbench.backbones.vit import ViTAdapter
from vpbench.measure.size import parameter_counts
from vpbench.methods.lor_vp import LoRVP
from vpbench.models.prompted import PromptedModel

FILE = "newer/lor_vp"


def model_of(**settings: Any) -> tuple[PromptedModel, dict[str, Any]]:
    """Of a backbone with the mean and std of the golden file."""
    config = load_golden(FILE)["config"]
    adapter = ViTAdapter(filled_vit(config))
    adapter.shape = replace(adapter.shape, mean=tuple(config["mean"]), std=tuple(config["std"]))
    options = LoRVP.Config(**{"rank": config["rank"], **settings})
    model = PromptedModel(adapter, LoRVP(options, adapter.shape, config["classes"]), config["classes"]).eval()
    fill_head(model.head, config)
    return model, config


@pytest.mark.parametrize("case", golden_cases(FILE))
def test_golden(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file's images have pixels that are to be normalised."""
    model, config = model_of()
    mean, std = (torch.tensor(config[name]).reshape(-1, 1, 1) for name in ("mean", "std"))
    monkeypatch.setattr("golden_fill.images", lambda config: (images(config) - mean) / std)
    tensors = {f"lor_vp.{name}": tensor for name, tensor in model.own.named_parameters()}
    run_case(model, config, load_golden(FILE)["cases"][case], tensors)


def test_counts_on_vit_b16(vit_b16: ViTAdapter) -> None:
    with torch.device("meta"):
        counts = parameter_counts(PromptedModel(vit_b16, LoRVP(LoRVP.Config(), vit_b16.shape, 100), 100))
    assert counts["params_method"] == counts["params_active"] == 5_376


def test_it_starts_as_linear_probing_and_is_merged() -> None:
    model, config = model_of()
    x = images(config)
    torch.testing.assert_close(model(x), model.head(model.backbone(x)), rtol=1e-5, atol=1e-5)
    torch.nn.init.normal_(model.own.left, std=0.5)  # type: ignore[arg-type]
    torch.nn.init.normal_(model.own.right, std=0.5)  # type: ignore[arg-type]
    expected = model(x)
    model.merge()
    torch.testing.assert_close(model(x), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model.head(model.backbone.vit(x)), expected, rtol=1e-4, atol=1e-5)  # type: ignore[union-attr, operator]


def test_without_position_embeddings_the_pattern_stays_on_the_image() -> None:
    swin = adapter_for(SwinTransformer(img_size=32, patch_size=4, embed_dim=24, depths=(1, 1), num_heads=(2, 4), window_size=4))
    model = PromptedModel(swin, LoRVP(LoRVP.Config(), swin.shape, 5), 5).eval()
    torch.nn.init.normal_(model.own.left)  # type: ignore[arg-type]
    x = torch.randn(2, 3, 32, 32)
    expected = model(x)
    model.merge()
    torch.testing.assert_close(model(x), expected)
