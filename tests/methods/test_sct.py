"""SCT: golden outputs of the released code, the selection of channels, merging."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from golden_fill import filled, golden_cases, golden_model, load_golden, run_case
from vpbench.backbones.vit import ViTAdapter
from vpbench.core.errors import UsageError
from vpbench.measure.size import parameter_counts
from vpbench.methods.sct import SCT
from vpbench.models.prompted import PromptedModel
from vpbench.models.registry import resolve_method

FILE = "baselines/sct"
VARIANTS = {"sct_attn": "attention", "sct_mlp": "mlp", "sct_qkv": "qkv"}


class Calibration:
    """A session over the calibration images of the golden file, in batches of three."""

    def __init__(self, model: PromptedModel, config: dict[str, Any]) -> None:
        said = config["calibration"]
        self.model, self.labels = model, torch.tensor(said["labels"])
        self.images = filled("calibration", (said["images"], 3, config["img"], config["img"]), 1.0, 0.0, config)

    def training_batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        return zip(self.images.split(3), self.labels.split(3))

    def logits(self, images: Tensor) -> Tensor:
        return self.model.eval()(images)


def model_of(case: str, **settings: Any) -> tuple[PromptedModel, dict[str, Any]]:
    """On the golden backbone, its channels selected."""
    golden = load_golden(FILE)
    variant = VARIANTS[case.rpartition("_")[0]]
    model = golden_model(golden["config"], SCT, {"channels": golden["config"]["channels"], "variant": variant, **settings})
    model.method.prepare(Calibration(model, golden["config"]))  # type: ignore[arg-type]
    return model, golden


def tensors(model: PromptedModel) -> dict[str, Tensor]:
    """By the golden files' names: ``sct.0.weight``, ``sct.0.q.weight`` ..."""
    return {name.replace("layers.", "sct.").replace("_", "."): tensor for name, tensor in model.own.named_parameters()}


def selected(model: PromptedModel) -> list[Any]:
    found: dict[str, list[int]] = {name: each.tolist() for name, each in model.own.selected.named_buffers()}  # type: ignore[union-attr]
    if "0" in found:
        return list(found.values())
    return [{part: found[f"{block}_{part}"] for part in "qv"} for block in range(len(found) // 2)]


@pytest.mark.parametrize("case", golden_cases(FILE))
def test_golden(case: str) -> None:
    model, golden = model_of(case)
    assert selected(model) == golden["cases"][case]["selected"]
    run_case(model, golden["config"], golden["cases"][case], tensors(model))


@pytest.mark.parametrize("case", ["sct_attn_filled", "sct_mlp_filled", "sct_qkv_filled"])
def test_channels_are_those_of_the_frozen_model(case: str) -> None:
    """Whatever the layers and the channels so far are: selecting a second time changes nothing."""
    model, golden = model_of(case)
    for tensor in model.own.parameters():
        torch.nn.init.normal_(tensor)
    for chosen in model.own.selected.buffers():  # type: ignore[union-attr]
        chosen.copy_(torch.arange(len(chosen)))
    model.method.prepare(Calibration(model, golden["config"]))  # type: ignore[arg-type]
    assert selected(model) == golden["cases"][case]["selected"]


@pytest.mark.parametrize(("label", "expected"), [("sct", 111_744), ("sct:mlp", 111_744), ("sct:qkv", 223_488)])
def test_counts_on_vit_b16(label: str, expected: int, vit_b16: ViTAdapter) -> None:
    with torch.device("meta"):
        config = SCT.Config.model_validate(resolve_method(label).config)
        counts = parameter_counts(PromptedModel(vit_b16, SCT(config, vit_b16.shape, 100), 100))
    assert counts["params_method"] == counts["params_active"] == expected


def test_a_scale_is_on_the_update_or_on_the_channels() -> None:
    for scaled, expected in (("update", "z + s (W z + b)"), ("channels", "s z + W z + b")):
        model, _ = model_of("sct_mlp_filled", scale=0.3, scaled=scaled)
        layer: Any = model.own.layers["0"]  # type: ignore[index]
        torch.nn.init.normal_(layer.bias)
        chosen = model.own.selected.get_buffer("0").long()  # type: ignore[union-attr, operator]
        z = torch.randn(2, 5, model.method.shape.width)
        found = model.method._edit_output("0", torch.zeros_like(z), z)  # type: ignore[attr-defined]
        output = z[..., chosen] @ layer.weight.T + layer.bias
        wanted = z.clone()
        wanted[..., chosen] = 0.3 * z[..., chosen] + output if scaled == "channels" else z[..., chosen] + 0.3 * output
        torch.testing.assert_close(found, wanted, msg=expected)


@pytest.mark.parametrize("settings", [{}, {"scale": 0.3}, {"scale": 0.3, "scaled": "channels"}])
def test_queries_and_values_merge(settings: dict[str, Any]) -> None:
    model, golden = model_of("sct_qkv_filled", **settings)
    for tensor in model.own.parameters():
        torch.nn.init.normal_(tensor, std=0.3)
    x = torch.randn(2, 3, golden["config"]["img"], golden["config"]["img"])
    expected = model(x)
    model.merge()
    features = model.backbone.vit(x)  # type: ignore[union-attr, operator]
    torch.testing.assert_close(model.head(features), expected, rtol=1e-4, atol=1e-4)  # timm's own forward pass is all there is


def test_more_channels_than_there_are(vit_b16: ViTAdapter) -> None:
    with pytest.raises(UsageError, match=r"sct.channels=769: this backbone has tokens with 768 channels"), torch.device("meta"):
        PromptedModel(vit_b16, SCT(SCT.Config(channels=769), vit_b16.shape, 5), 5)
