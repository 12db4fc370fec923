"""GaPT: golden outputs of the released MAE and MoCo models, counts, what gates and temperatures do."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from timm.models import SwinTransformer, VisionTransformer
from torch import Tensor

from golden_fill import Rows, fill_head, filled_vit, golden_cases, golden_model, images, load_golden, run_case
from vpbench.backbones.family import adapter_for
from vpbench.backbones.vit import ViTAdapter
from vpbench.core.errors import UnsupportedError
from vpbench.measure.size import parameter_counts
from vpbench.methods.gapt import GaPT
from vpbench.methods.vpt import VPT
from vpbench.models.prompted import PromptedModel

VIT = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 3, "num_heads": 4, "num_classes": 0}


def tensors(model: PromptedModel) -> dict[str, Tensor | Rows]:
    """By the golden file's names."""
    own = model.own
    return {"gapt.prompt": Rows(own.prompts, None), "gapt.gate": own.gates, "gapt.temperature": own.temperatures}


def tiny(*, vit: dict[str, Any] | None = None, **options: Any) -> PromptedModel:
    torch.manual_seed(0)
    adapter = ViTAdapter(VisionTransformer(**{**VIT, **(vit or {})}))
    model = PromptedModel(adapter, GaPT(GaPT.Config(prompt_length=4, **options), adapter.shape, 5), 5).double()
    return model.eval()


X = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0), dtype=torch.double)


@pytest.mark.parametrize("case", golden_cases("baselines/gapt"))
def test_golden(case: str) -> None:
    golden = load_golden("baselines/gapt")
    config, expected = golden["config"], golden["cases"][case]
    pooling = "mean" if case.startswith("mae") else "backbone"
    model = golden_model(config, GaPT, {"prompt_length": config["prompt_length"], "pooling": pooling})
    model.backbone.use_fused_attention(False)  # as released: at T = 0.01 the fused kernel's float32 gradient of T is 0.3 % off
    run_case(model, config, expected, tensors(model))
    after = torch.tensor(expected["temperature_after_forward"])
    torch.testing.assert_close(model.own.temperatures.detach(), after, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("case", [case for case in golden_cases("baselines/gapt") if case.startswith("mae")])
def test_golden_of_a_backbone_that_pools_prompts(case: str) -> None:
    """A mean-pooled backbone whose norm has the encoder's values, and which counts prompts into the mean, gives the same."""
    golden = load_golden("baselines/gapt")
    config = golden["config"]
    vit = filled_vit(config, "avg")
    vit.fc_norm.load_state_dict(filled_vit(config).norm.state_dict())
    adapter = ViTAdapter(vit, pool_prompts=True)
    model = PromptedModel(
        adapter, GaPT(GaPT.Config(prompt_length=config["prompt_length"]), adapter.shape, config["classes"]), config["classes"]
    ).eval()
    fill_head(model.head, config)
    adapter.use_fused_attention(False)
    run_case(model, config, golden["cases"][case], tensors(model))


@pytest.mark.parametrize(("length", "expected"), [(100, 76_823), (10, 7_703)])
def test_counts_on_vit_b16(length: int, expected: int, vit_b16: ViTAdapter) -> None:
    with torch.device("meta"):
        counts = parameter_counts(PromptedModel(vit_b16, GaPT(GaPT.Config(prompt_length=length), vit_b16.shape, 100), 100))
    assert counts["params_method"] == counts["params_active"] == expected


def test_open_gates_and_no_temperature_are_shallow_prompts() -> None:
    golden = load_golden("baselines/gapt")
    config = golden["config"]
    model = golden_model(config, GaPT, {"prompt_length": 4, "gate_init": -60.0, "temperature": False})
    shallow = golden_model(config, VPT, {"prompt_length": 4, "deep": False})
    with torch.no_grad():
        shallow.own.prompts.copy_(model.own.prompts[None])
    torch.testing.assert_close(model(images(config)), shallow(images(config)), rtol=1e-5, atol=1e-5)


def test_closed_gates_repeat_the_prompts() -> None:
    model = tiny(gate_init=60.0)
    seen: list[Tensor] = []
    for block in model.backbone.vit.blocks:
        block.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0][:, 1:5]))
    model.backbone.skip_unused = False
    model(X)
    assert all(torch.equal(prompts, seen[0]) for prompts in seen) and len(seen) == 3


@pytest.mark.parametrize("vit", [{}, {"qk_norm": True}, {"qkv_bias": False}])
@pytest.mark.parametrize("fused", [True, False])
def test_temperatures_divide_attention_logits(vit: dict[str, Any], fused: bool) -> None:
    """Against attention whose 1 / sqrt(d) is divided instead, also behind a norm of queries, also for the class token alone."""
    model, plain = tiny(vit=vit), tiny(vit=vit)
    model.backbone.use_fused_attention(fused)
    plain.backbone.use_fused_attention(False)  # the fused kernel takes no scale from the module
    temperatures = torch.tensor([0.5, 2.0, 1.7], dtype=torch.double)
    with torch.no_grad():
        model.own.temperatures.copy_(temperatures)
    for block, temperature in zip(plain.backbone.vit.blocks, temperatures):
        block.attn.scale /= float(temperature)
    expected = plain(X)
    torch.testing.assert_close(model(X), expected)
    model.backbone.skip_unused = False
    torch.testing.assert_close(model(X), expected)
    model.backbone.checkpoint_blocks(True)
    torch.testing.assert_close(model(X), expected)
    torch.testing.assert_close(model.plain_features(X), tiny(vit=vit).backbone(X))


def test_fused_attention_has_the_gradient_of_extreme_temperatures() -> None:
    """To rounding, which double precision shows: with logits 100 times as large, float32 loses digits."""
    gradients = []
    for fused in (True, False):
        model = tiny()
        model.backbone.use_fused_attention(fused)
        with torch.no_grad():
            model.own.temperatures.copy_(torch.tensor([10.0, 0.01, 0.9]))
        model(X).square().sum().backward()
        gradients.append(model.own.temperatures.grad)
    torch.testing.assert_close(*gradients)


def test_the_clamp_lets_gradient_through() -> None:
    model = tiny()
    with torch.no_grad():
        model.own.temperatures.copy_(torch.tensor([25.0, 1e-4, 1.0]))
    model(X).square().sum().backward()
    assert model.own.temperatures.tolist() == pytest.approx([10.0, 0.01, 1.0])
    assert model.own.temperatures.grad is not None and model.own.temperatures.grad.all()


def test_dropout_differs_between_images_and_stops_in_evaluation() -> None:
    model = tiny(dropout=0.5)
    twice = X[:1].repeat(2, 1, 1, 1)
    torch.testing.assert_close(*model(twice))
    model.train()
    first, second = model(twice)
    assert (first - second).abs().max() > 1e-3


def test_backbones_without_class_token_or_with_windows() -> None:
    with pytest.raises(UnsupportedError, match="class token"):
        tiny(vit={"class_token": False, "global_pool": "avg"})
    swin = adapter_for(SwinTransformer(img_size=32, patch_size=4, embed_dim=24, depths=(1, 1), num_heads=(2, 4), window_size=4))
    with pytest.raises(UnsupportedError, match="swin"):
        PromptedModel(swin, GaPT(GaPT.Config(), swin.shape, 5), 5)
    with pytest.raises(UnsupportedError, match="queries"):
        PromptedModel(swin, VPT(VPT.Config(), swin.shape, 5), 5).scope.edit_queries(0, lambda query: query)
