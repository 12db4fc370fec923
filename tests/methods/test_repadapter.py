"""RepAdapter: golden outputs of the released code, counts, merging."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from golden_fill import golden_cases, golden_model, images, load_golden, run_case
from vpbench.backbones.vit import ViTAdapter
from vpbench.core.errors import UsageError
from vpbench.measure.size import parameter_counts
from vpbench.methods.repadapter import RepAdapter
from vpbench.models.prompted import PromptedModel

FILE = "newer/repadapter"


def model_of(**settings: Any) -> tuple[PromptedModel, dict[str, Any]]:
    config = load_golden(FILE)["config"]
    given = {name: config[name] for name in ("bottleneck", "groups", "scale")}
    return golden_model(config, RepAdapter, {**given, **settings}), config


def tensors(model: PromptedModel) -> dict[str, Tensor]:
    """By the golden file's names: ``repadapter.0.attn.down.weight`` ..."""
    found = {}
    for name, tensor in model.own.named_parameters():
        for own, golden in (("adapters.", "repadapter."), ("_qkv", ".attn"), ("_fc1", ".mlp"), ("up_", "up.")):
            name = name.replace(own, golden)
        found[name] = tensor
    return found


@pytest.mark.parametrize("case", golden_cases(FILE))
def test_golden(case: str) -> None:
    model, config = model_of(sites="attention" if case == "repattn" else "both")
    run_case(model, config, load_golden(FILE)["cases"][case], tensors(model))


@pytest.mark.parametrize(("sites", "expected"), [("both", 239_808), ("attention", 119_904)])
def test_counts_on_vit_b16(sites: str, expected: int, vit_b16: ViTAdapter) -> None:
    with torch.device("meta"):
        counts = parameter_counts(PromptedModel(vit_b16, RepAdapter(RepAdapter.Config(sites=sites), vit_b16.shape, 100), 100))
    assert counts["params_method"] == counts["params_active"] == expected


def test_it_starts_as_the_frozen_model() -> None:
    model, config = model_of()
    with model.scope.disabled():
        plain = model(images(config))
    torch.testing.assert_close(model(images(config)), plain)


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_merged(groups: int) -> None:
    model, config = model_of(groups=groups)
    for tensor in model.own.parameters():
        torch.nn.init.normal_(tensor, std=0.2)
    expected = model(images(config))
    model.merge()
    features = model.backbone.vit(images(config))  # type: ignore[union-attr, operator]
    torch.testing.assert_close(model.head(features), expected, rtol=1e-4, atol=1e-4)  # timm's own forward pass is all there is


def test_groups_that_do_not_divide() -> None:
    with pytest.raises(UsageError, match=r"repadapter\.groups=3 does not divide bottleneck=4"):
        model_of(groups=3)
