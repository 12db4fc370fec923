"""AdaptFormer: golden outputs of the released code, counts, the head with batch norm."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from golden_fill import golden_cases, golden_model, load_golden, run_case
from vpbench.backbones.vit import ViTAdapter
from vpbench.measure.size import parameter_counts
from vpbench.methods.adaptformer import AdaptFormer
from vpbench.models.prompted import PromptedModel
from vpbench.models.registry import resolve_method

FILE = "baselines/adaptformer"


def tensors(model: PromptedModel) -> dict[str, Tensor]:
    """By the golden files' names: ``adaptformer.0.down.weight`` ..."""
    return {name.replace("adapters.", "adaptformer."): tensor for name, tensor in model.own.named_parameters()}


def settings() -> dict[str, float]:
    config = load_golden(FILE)["config"]
    return {"bottleneck": config["bottleneck"], "scale": config["scale"]}


@pytest.mark.parametrize("case", golden_cases(FILE))
def test_golden(case: str) -> None:
    golden = load_golden(FILE)
    model = golden_model(golden["config"], AdaptFormer, settings())
    run_case(model, golden["config"], golden["cases"][case], tensors(model))


@pytest.mark.parametrize(
    ("preset", "expected"), [("adaptformer", 1_189_632), ("adaptformer:vtab", 156_768), ("adaptformer:released", 1_189_632)]
)
def test_counts_on_vit_b16(preset: str, expected: int, vit_b16: ViTAdapter) -> None:
    with torch.device("meta"):
        config = AdaptFormer.Config.model_validate(resolve_method(preset).config)
        counts = parameter_counts(PromptedModel(vit_b16, AdaptFormer(config, vit_b16.shape, 100), 100))
    assert counts["params_method"] == counts["params_active"] == expected
    assert counts["params_head"] == 76_900  # the batch norm has no parameters


def test_it_starts_as_the_frozen_model_and_drops_out_in_training_alone() -> None:
    config = load_golden(FILE)["config"]
    model = golden_model(config, AdaptFormer, {"dropout": 0.5})
    x = torch.randn(2, 3, config["img"], config["img"])
    with model.scope.disabled():
        plain = model(x)
    assert torch.equal(model(x), plain)
    for adapter in model.own.adapters:  # type: ignore[union-attr]
        nn.init.normal_(adapter["up"].weight)
    assert torch.equal(model(x), model(x))
    model.train()
    assert not torch.equal(model(x), model(x))


def test_released_head_normalises_features() -> None:
    """As nn.BatchNorm1d without parameters in front of the linear layer, also for a batch of one image."""
    config = load_golden(FILE)["config"]
    adapter = golden_model(config, AdaptFormer, settings()).backbone
    model = PromptedModel(adapter, AdaptFormer(AdaptFormer.Config(batch_norm=True), adapter.shape, 5), 5).train()
    assert model.method.needs_whole_batches and not golden_model(config, AdaptFormer, {}).method.needs_whole_batches
    x = torch.randn(6, 3, config["img"], config["img"])
    features = adapter(x)
    normed = (features - features.mean(0)) / (features.var(0, unbiased=False) + 1e-6).sqrt()
    torch.testing.assert_close(model(x), model.head[1](normed), rtol=1e-4, atol=1e-5)  # type: ignore[index]
    assert model(x[:1]).isfinite().all()
