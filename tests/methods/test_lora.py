"""LoRA: golden outputs of NOAH's and loralib's code, counts, merging."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from golden_fill import golden_cases, golden_model, load_golden, run_case
from vpbench.backbones.vit import ViTAdapter
from vpbench.measure.size import parameter_counts
from vpbench.methods.lora import LoRA
from vpbench.models.prompted import PromptedModel
from vpbench.models.registry import resolve_method


def tensors(model: PromptedModel) -> dict[str, Tensor]:
    """By the golden files' names."""
    return {"lora." + name.removeprefix("updates.").replace("_qkv", ""): tensor for name, tensor in model.own.named_parameters()}


@pytest.mark.parametrize("case", golden_cases("baselines/lora"))
def test_golden_of_one_a(case: str) -> None:
    golden = load_golden("baselines/lora")
    model = golden_model(golden["config"], LoRA, {"rank": golden["config"]["rank"]})
    run_case(model, golden["config"], golden["cases"][case], tensors(model))


@pytest.mark.parametrize("case", golden_cases("baselines/lora_qv"))
def test_golden_of_queries_and_values(case: str) -> None:
    golden = load_golden("baselines/lora_qv")
    config = golden["config"]
    settings = {"rank": config["rank"], "targets": "qv", "alpha": config["scale"] * config["rank"]}
    model = golden_model(config, LoRA, settings)
    run_case(model, config, golden["cases"][case], tensors(model))


@pytest.mark.parametrize(("preset", "expected"), [("noah", 294_912), ("qv", 294_912), ("all-linears", 1_179_648)])
def test_counts_on_vit_b16(preset: str, expected: int, vit_b16: ViTAdapter) -> None:
    with torch.device("meta"):
        config = LoRA.Config.model_validate(resolve_method(f"lora:{preset}").config)
        counts = parameter_counts(PromptedModel(vit_b16, LoRA(config, vit_b16.shape, 100), 100))
    assert counts["params_method"] == counts["params_active"] == expected


@pytest.mark.parametrize("options", [{}, {"targets": "qv", "alpha": 4.0}, {"targets": "all-linears"}])
def test_merged_it_is_a_plain_backbone(options: dict[str, Any]) -> None:
    golden = load_golden("baselines/lora")
    model = golden_model(golden["config"], LoRA, {"rank": 4, **options})
    torch.manual_seed(0)
    with torch.no_grad():
        for each in model.own.parameters():
            each.normal_(std=0.3)
    x = torch.randn(2, 3, golden["config"]["img"], golden["config"]["img"])
    expected = model(x)
    with model.scope.disabled():
        plain = model.backbone.vit(x)  # type: ignore[union-attr, operator]
    model.merge()
    torch.testing.assert_close(model(x), expected, rtol=1e-4, atol=1e-4)
    features = model.backbone.vit(x)  # type: ignore[union-attr, operator]
    torch.testing.assert_close(model.head(features), expected, rtol=1e-4, atol=1e-4)  # timm's own forward pass is all there is
    model.scope.undo()
    assert torch.equal(model.backbone.vit(x), plain)  # type: ignore[union-attr, operator]
