"""SSF: golden outputs of the released code, counts, merging."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from golden_fill import golden_cases, golden_model, load_golden, run_case
from vpbench.backbones.vit import ViTAdapter
from vpbench.measure.size import parameter_counts
from vpbench.methods.ssf import SSF
from vpbench.models.prompted import PromptedModel


def tensors(model: PromptedModel) -> dict[str, Tensor]:
    """By the golden file's names: ``ssf.patch``, ``ssf.0.norm1`` ..."""
    found = {}
    for name, tensor in model.own.named_parameters():
        site, _, kind = name.removeprefix("sites.").partition(".")
        block, _, inside = site.partition("_")
        place = f"{block}.{inside}" if block.isdigit() else {"patch_embed": "patch", "norm": "norm"}[site]
        found[f"ssf.{place}.{kind}"] = tensor
    return found


@pytest.mark.parametrize("case", golden_cases("baselines/ssf"))
def test_golden(case: str) -> None:
    golden = load_golden("baselines/ssf")
    model = golden_model(golden["config"], SSF, {})
    run_case(model, golden["config"], golden["cases"][case], tensors(model))


def test_counts_on_vit_b16(vit_b16: ViTAdapter) -> None:
    with torch.device("meta"):
        counts = parameter_counts(PromptedModel(vit_b16, SSF(SSF.Config(), vit_b16.shape, 100), 100))
    assert counts["params_method"] == 205_824


def test_merged_it_is_a_plain_backbone() -> None:
    golden = load_golden("baselines/ssf")
    model = golden_model(golden["config"], SSF, {"init_std": 0.2})
    x = torch.randn(2, 3, golden["config"]["img"], golden["config"]["img"])
    expected = model(x)
    model.merge()
    torch.testing.assert_close(model.head(model.backbone.vit(x)), expected, rtol=1e-4, atol=1e-4)  # type: ignore[union-attr, operator]
