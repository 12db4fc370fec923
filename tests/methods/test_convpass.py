"""Convpass: golden outputs of the released code, counts, what the convolution reaches."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from timm.models import SwinTransformer
from torch import Tensor, nn

from golden_fill import golden_cases, golden_model, load_golden, run_case
from vpbench.backbones.family import adapter_for
from vpbench.backbones.vit import ViTAdapter
from vpbench.measure.size import parameter_counts
from vpbench.methods.convpass import Convpass
from vpbench.models.prompted import PromptedModel
from vpbench.models.registry import resolve_method

FILE = "baselines/convpass"


def tensors(model: PromptedModel) -> dict[str, Tensor]:
    """By the golden files' names: ``convpass.0.attn.conv.weight`` ..."""
    named = {}
    for name, tensor in model.own.named_parameters():
        _, place, rest = name.split(".", 2)
        block, site = place.split("_")
        named[f"convpass.{block}.{'attn' if site == 'attention' else site}.{rest}"] = tensor
    return named


@pytest.mark.parametrize("case", golden_cases(FILE))
def test_golden(case: str) -> None:
    golden = load_golden(FILE)
    config = golden["config"]
    sites = "attention" if case.endswith("_attn") else "both"
    model = golden_model(config, Convpass, {"bottleneck": config["bottleneck"], "scale": config["scale"], "sites": sites})
    assert tensors(model).keys() == golden["cases"][case]["fills"].keys()
    run_case(model, config, golden["cases"][case], tensors(model))


@pytest.mark.parametrize(("label", "expected"), [("convpass", 327_552), ("convpass:attention", 163_776)])
def test_counts_on_vit_b16(label: str, expected: int, vit_b16: ViTAdapter) -> None:
    with torch.device("meta"):
        config = Convpass.Config.model_validate(resolve_method(label).config)
        counts = parameter_counts(PromptedModel(vit_b16, Convpass(config, vit_b16.shape, 100), 100))
    assert counts["params_method"] == counts["params_active"] == expected


def filled(method: Convpass) -> Any:
    method.build()
    for each in method.own.parameters():
        nn.init.normal_(each, std=0.5)
    method.own.eval()
    return method.own.bypasses["0_mlp"]


def reached(method: Convpass, token: int) -> list[int]:
    """Tokens whose bypass changes with one token."""
    bypass, grid = filled(method), method.shape.grid
    x = torch.randn(1, method.shape.prefix + grid**2, method.shape.width)
    other = x.clone()
    other[0, token] += 1
    outputs = [method._bypassed(bypass, grid, each, torch.zeros_like(x)) for each in (x, other)]
    return (outputs[0] != outputs[1]).any(-1)[0].nonzero().flatten().tolist()


def test_patches_reach_their_neighbours_and_the_class_token_itself() -> None:
    config = load_golden(FILE)["config"]
    shape = golden_model(config, Convpass, {}).method.shape  # a class token and 4 x 4 patches
    method = Convpass(Convpass.Config(), shape, 5)
    assert reached(method, 0) == [0]
    assert reached(method, 1) == [1, 2, 5, 6]  # a corner
    assert reached(method, 6) == [1, 2, 3, 5, 6, 7, 9, 10, 11]


def test_it_starts_as_the_frozen_model_with_the_identity_in_the_centre() -> None:
    config = load_golden(FILE)["config"]
    x = torch.randn(2, 3, config["img"], config["img"])
    for init in ("identity", "xavier"):
        model = golden_model(config, Convpass, {"init": init})
        with model.scope.disabled():
            plain = model(x)
        torch.testing.assert_close(model(x), plain, rtol=1e-6, atol=1e-6)
    bypass: Any = golden_model(config, Convpass, {}).own.bypasses["1_attention"]  # type: ignore[index]
    maps = torch.randn(1, 8, 4, 4)
    assert torch.equal(bypass["conv"](maps), maps)


def test_on_swin_the_convolution_crosses_windows() -> None:
    swin = adapter_for(
        SwinTransformer(img_size=32, patch_size=4, embed_dim=24, depths=(2, 2), num_heads=(2, 4), window_size=4, num_classes=0)
    )
    method = Convpass(Convpass.Config(), swin.shape, 5)
    assert reached(method, 8 * 3 + 3) == [18, 19, 20, 26, 27, 28, 34, 35, 36]  # grid 8 x 8, windows of 4 x 4
