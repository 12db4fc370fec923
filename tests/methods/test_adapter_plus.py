"""Adapter+: golden outputs of the released code at all positions, counts, initial values, stochastic depth."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from golden_fill import golden_cases, golden_model, images, load_golden, run_case
from vpbench.backbones.vit import ViTAdapter
from vpbench.measure.size import parameter_counts
from vpbench.methods.adapter_plus import AdapterPlus
from vpbench.models.prompted import PromptedModel
from vpbench.planning.suites import method_options, recipe_entries, suite_card

FILE = "newer/adapter_plus"


def model_of(**settings: Any) -> tuple[PromptedModel, dict[str, Any]]:
    config = load_golden(FILE)["config"]
    return golden_model(config, AdapterPlus, {"bottleneck": config["bottleneck"], **settings}), config


def tensors(model: PromptedModel, both: bool) -> dict[str, Tensor]:
    """By the golden file's names: ``adapter_plus.0.down.weight``, of two per block ``adapter_plus.0.attn.down.weight``."""
    short = {"_attention_branch": ".attn" if both else "", "_mlp_branch": ".mlp" if both else ""}
    found = {}
    for name, tensor in model.own.named_parameters():
        for long, part in short.items():
            name = name.replace(long, part)
        found[name.replace("adapters.", "adapter_plus.")] = tensor
    return found


@pytest.mark.parametrize("case", golden_cases(FILE))
def test_golden(case: str) -> None:
    expected = load_golden(FILE)["cases"][case]
    model, config = model_of(position=expected["position"])
    run_case(model, config, expected, tensors(model, expected["position"] == "houlsby"))


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"bottleneck": 1}, 36_876),
        ({"bottleneck": 4}, 92_208),
        ({}, 165_984),
        ({"bottleneck": 16}, 313_536),
        ({"bottleneck": 32}, 608_640),
    ],
)
def test_counts_on_vit_b16(settings: dict[str, Any], expected: int, vit_b16: ViTAdapter) -> None:
    with torch.device("meta"):
        counts = parameter_counts(PromptedModel(vit_b16, AdapterPlus(AdapterPlus.Config(**settings), vit_b16.shape, 100), 100))
    assert counts["params_method"] == counts["params_active"] == expected


@pytest.mark.parametrize(("init", "most"), [("lora", 0.0), ("houlsby", 0.1), ("bert", 0.1)])
def test_it_starts_at_or_near_the_frozen_model(init: str, most: float) -> None:
    model, config = model_of(init=init)
    with model.scope.disabled():
        plain = model(images(config))
    change = float((model(images(config)) - plain).detach().abs().max())
    assert (change == 0) if most == 0 else (0 < change < most)
    if init == "houlsby":
        assert all(tensor.abs().max() <= 0.02 for name, tensor in model.own.named_parameters() if name.endswith("weight"))


def test_stochastic_depth_drops_an_adapters_output_for_whole_images() -> None:
    model, _ = model_of(drop_path=0.5)
    update = torch.ones(200, 3, 2)
    dropped = model.train().method._dropped(update)  # type: ignore[attr-defined]
    assert {*dropped.flatten(1).unbind()[0].tolist(), *dropped.flatten().tolist()} == {0.0, 2.0}
    assert all(len(set(image.flatten().tolist())) == 1 for image in dropped)
    assert torch.equal(model.eval().method._dropped(update), update)  # type: ignore[attr-defined]


@pytest.mark.parametrize("scaling", ["learned", "none", "channel"])
def test_scaling(scaling: str) -> None:
    model, config = model_of(scaling=scaling)
    size = {"learned": 1, "none": 0, "channel": config["dim"]}[scaling]
    assert (
        sum(tensor.numel() for name, tensor in model.own.named_parameters() if name.endswith("scale")) == config["depth"] * size
    )


def test_bottlenecks_per_task() -> None:
    """Means that the released configurations have over VTAB-1k."""
    tasks = suite_card("vtab1k").datasets
    for preset, expected in (("dim1-32", 219), ("dim1-8", 107)):
        chosen = [method_options(recipe_entries("adapter_plus", "vtab1k", task, preset)).get("bottleneck", 8) for task in tasks]
        assert sum(chosen) == expected
