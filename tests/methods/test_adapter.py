"""Adapters: golden outputs of VPT's and NOAH's code, counts, and the baseline that cannot learn."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from golden_fill import golden_cases, golden_model, load_golden, run_case
from vpbench.backbones.vit import ViTAdapter
from vpbench.core.errors import UsageError
from vpbench.measure.size import parameter_counts
from vpbench.methods.adapter import Adapter
from vpbench.models.prompted import PromptedModel


def tensors(model: PromptedModel) -> dict[str, Tensor]:
    """By the golden files' names: ``adapter.0.down.weight`` ..."""
    return {
        "adapter." + name.removeprefix("adapters.").replace("_mlp_branch", ""): tensor
        for name, tensor in model.own.named_parameters()
    }


@pytest.mark.parametrize(
    ("file", "case"), [(file, case) for file in ("adapter", "adapter_noah") for case in golden_cases(f"baselines/{file}")]
)
def test_golden(file: str, case: str) -> None:
    golden = load_golden(f"baselines/{file}")
    config = golden["config"]
    activation = "quick_gelu" if file == "adapter_noah" else "gelu"
    model = golden_model(config, Adapter, {"bottleneck": config["bottleneck"], "activation": activation})
    run_case(model, config, golden["cases"][case], tensors(model))


@pytest.mark.parametrize(
    ("options", "expected"),
    [({}, 230_544), ({"reduction": 256}, 64_548), ({"reduction": 8}, 1_779_840), ({"placement": "houlsby"}, 2 * 230_544)],
)
def test_counts_on_vit_b16(options: dict[str, Any], expected: int, vit_b16: ViTAdapter) -> None:
    with torch.device("meta"):
        counts = parameter_counts(PromptedModel(vit_b16, Adapter(Adapter.Config(**options), vit_b16.shape, 100), 100))
    assert counts["params_method"] == expected


def test_all_zero_trains_one_bias_per_block() -> None:
    golden = load_golden("baselines/adapter")
    model = golden_model(golden["config"], Adapter, {"bottleneck": 4, "init": "zero"})
    optimizer = torch.optim.SGD(model.own.parameters(), lr=1.0)
    for _ in range(3):
        model.training_loss(torch.randn(4, 3, golden["config"]["img"], golden["config"]["img"]), torch.arange(4))[0].backward()
        optimizer.step()
    moved = {name for name, tensor in model.own.named_parameters() if tensor.any()}
    assert moved == {name for name, _ in model.own.named_parameters() if name.endswith("up.bias")}


def test_a_reduction_that_leaves_nothing(vit_b16: ViTAdapter) -> None:
    with pytest.raises(UsageError, match=r"adapter.reduction=1000 is more than the token width 768"), torch.device("meta"):
        PromptedModel(vit_b16, Adapter(Adapter.Config(reduction=1000), vit_b16.shape, 5), 5)
