"""DiffFit: golden outputs of the released code, counts, merging."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from timm.models import VisionTransformer
from timm.models.vision_transformer import ResPostBlock
from torch import Tensor

from golden_fill import golden_cases, golden_model, images, load_golden, run_case
from vpbench.backbones.vit import ViTAdapter
from vpbench.measure.size import parameter_counts
from vpbench.methods.difffit import DiffFit
from vpbench.models.prompted import PromptedModel

FILE = "newer/difffit"
VIT = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 4, "num_classes": 0}


def tensors(model: PromptedModel) -> dict[str, Tensor]:
    """By the golden file's names: ``difffit.0.gamma1``, and timm's names."""
    gammas = {}
    for name, tensor in model.own.gamma.items():  # type: ignore[union-attr, operator]
        block, _, site = name.partition("_")
        gammas[f"difffit.{block}.gamma{1 if site == 'attention_branch' else 2}"] = tensor
    return {**gammas, **model.scope.trained}


@pytest.mark.parametrize("case", [case for case in golden_cases(FILE) if case != "ln"])
def test_golden(case: str) -> None:
    golden = load_golden(FILE)
    model = golden_model(golden["config"], DiffFit, {})
    run_case(model, golden["config"], golden["cases"][case], tensors(model))


def test_what_is_trained() -> None:
    golden = load_golden(FILE)
    model = golden_model(golden["config"], DiffFit, {})
    assert {*tensors(model), "head.weight", "head.bias"} == {*golden["cases"]["difffit_filled"]["params"]}
    with model.scope.disabled():
        plain = model(images(golden["config"]))
    assert torch.equal(model(images(golden["config"])), plain)


def test_counts_on_vit_b16(vit_b16: ViTAdapter) -> None:
    with torch.device("meta"):
        model = PromptedModel(vit_b16, DiffFit(DiffFit.Config(), vit_b16.shape, 100), 100)
    assert parameter_counts(model)["params_method"] == 140_544
    model.scope.undo()


@pytest.mark.parametrize("vit", [{}, {"init_values": 0.3}, {"block_fn": ResPostBlock}])
def test_merged(vit: dict[str, Any]) -> None:
    """Also behind layer scale, and where a norm is the last of a branch."""
    torch.manual_seed(0)
    adapter = ViTAdapter(VisionTransformer(**{**VIT, **vit}))
    model = PromptedModel(adapter, DiffFit(DiffFit.Config(), adapter.shape, 5), 5).eval()
    with torch.no_grad():
        for name, tensor in model.trainable():
            if not name.startswith("head."):
                tensor.add_(torch.randn_like(tensor), alpha=0.3)
    x = torch.randn(2, 3, 32, 32)
    expected = model(x)
    model.merge()
    torch.testing.assert_close(model.head(adapter.vit(x)), expected, rtol=1e-4, atol=1e-5)
