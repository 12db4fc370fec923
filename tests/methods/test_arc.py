"""ARC: golden outputs of the released code, counts, initial values, merging."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from golden_fill import Rows, golden_cases, golden_model, images, load_golden, run_case
from vpbench.backbones.vit import ViTAdapter
from vpbench.measure.size import parameter_counts
from vpbench.methods.arc import ARC
from vpbench.models.prompted import PromptedModel

FILE = "newer/arc"


def model_of(**settings: Any) -> tuple[PromptedModel, dict[str, Any]]:
    config = load_golden(FILE)["config"]
    return golden_model(config, ARC, {"rank": config["rank"], **settings}), config


class Row(Rows):
    """A vector that the file has as a single row."""

    def copy_(self, values: Tensor) -> None:
        self._parameter.data.copy_(values[0])


def tensors(model: PromptedModel) -> dict[str, Any]:
    """By the golden file's names: ``arc.attn.basis``, ``arc.0.attn.scale``, ``arc.0.attn.bias`` ..."""
    sites, own = {"qkv": "attn", "fc1": "mlp"}, model.own
    found: dict[str, Any] = {f"arc.{sites[name.partition('_')[2]]}.basis": each for name, each in own.bases.items()}
    for name in own.scales:
        block, _, site = name.partition("_")
        found[f"arc.{block}.{sites[site]}.scale"] = Row(own.scales[name], None)
        found[f"arc.{block}.{sites[site]}.bias"] = own.biases[name]
    return found


@pytest.mark.parametrize("case", golden_cases(FILE))
def test_golden(case: str) -> None:
    model, config = model_of(sites="attention" if case == "attention_only" else "both")
    run_case(model, config, load_golden(FILE)["cases"][case], tensors(model))


@pytest.mark.parametrize(("sites", "expected"), [("both", 96_432), ("attention", 48_216)])
def test_counts_on_vit_b16(sites: str, expected: int, vit_b16: ViTAdapter) -> None:
    with torch.device("meta"):
        counts = parameter_counts(PromptedModel(vit_b16, ARC(ARC.Config(sites=sites), vit_b16.shape, 100), 100))
    assert counts["params_method"] == counts["params_active"] == expected


@pytest.mark.parametrize("init", ["zero", "released"])
def test_initial_values(init: str) -> None:
    model, config = model_of(init=init)
    with model.scope.disabled():
        plain = model(images(config))
    assert torch.allclose(model(images(config)), plain, rtol=1e-5, atol=1e-5) == (init == "zero")


def test_merged() -> None:
    model, config = model_of(init="released")
    for tensor in model.own.parameters():
        torch.nn.init.normal_(tensor, std=0.3)
    expected = model(images(config))
    model.merge()
    features = model.backbone.vit(images(config))  # type: ignore[union-attr, operator]
    torch.testing.assert_close(model.head(features), expected, rtol=1e-4, atol=1e-4)  # timm's own forward pass is all there is
