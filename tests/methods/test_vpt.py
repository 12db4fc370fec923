"""VPT: golden outputs, exact counts, and what deep and shallow prompts may depend on."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from timm.models import VisionTransformer
from torch import Tensor

from golden_fill import (
    Rows,
    check_gradient,
    check_logits,
    fill_head,
    filled,
    filled_vit,
    golden_cases,
    golden_model,
    images,
    labels,
    load_golden,
    run_case,
)
from vpbench.backbones.vit import ViTAdapter
from vpbench.core.errors import UsageError
from vpbench.interface import Context, Part, Scope, Tokens
from vpbench.methods.linear import Linear
from vpbench.methods.vpt import VPT
from vpbench.models.prompted import PromptedModel


def fill_prompts(prompts: Tensor, config: dict[str, Any]) -> None:
    with torch.no_grad():
        for block, rows in enumerate(prompts):
            rows.copy_(filled(f"prompt.{block}", rows.shape, 0.5, 0.0, config))


def tiny(**options: Any) -> PromptedModel:
    torch.manual_seed(0)
    adapter = ViTAdapter(VisionTransformer(img_size=32, patch_size=8, embed_dim=48, depth=3, num_heads=4, num_classes=0).double())
    return PromptedModel(adapter, VPT(VPT.Config(**options), adapter.shape, 5), 5).double()


@pytest.mark.parametrize("case", ["plain", "vpt_shallow", "vpt_deep"])
def test_golden(case: str) -> None:
    golden = load_golden("vpt")
    config, expected = golden["config"], golden["cases"][case]
    if case == "plain":
        model = golden_model(config, Linear, {})
    else:
        model = golden_model(config, VPT, {"prompt_length": config["prompt_length"], "deep": case == "vpt_deep"})
        fill_prompts(model.own.prompts, config)
    logits = model(images(config))
    check_logits(logits, expected)
    loss = torch.nn.functional.cross_entropy(logits, labels(config))
    assert loss.item() == pytest.approx(expected["loss"], rel=1e-4)
    loss.backward()
    for name, gradient in expected["params"].items():
        found = {
            "head.weight": lambda: model.head.weight.grad,
            "prompt.0": lambda: model.own.prompts.grad[:1],
            "prompt.1..": lambda: model.own.prompts.grad[1:],
        }[name]()
        check_gradient(found, gradient)


class PromptPoolVPT(VPT):
    """Classifies the mean of the prompts' outputs, an option of the released code for MAE."""

    def attach(self, scope: Scope) -> None:
        self.norm = scope.module("norm")

    def outputs_used(self, block: int) -> frozenset[Part]:
        return frozenset({"prompts"}) if block == self.shape.depth - 1 else super().outputs_used(block)

    def readout(self, tokens: Tokens, features: Tensor, context: Context) -> Tensor:
        return self.norm(tokens.prompt_tokens.mean(1))


@pytest.mark.parametrize("case", golden_cases("baselines/vpt_ssl"))
def test_golden_of_self_supervised_models(case: str) -> None:
    """MAE's mean over patches and prompts, over either, and MoCo's class token."""
    golden = load_golden("baselines/vpt_ssl")
    config = golden["config"]
    is_mae, pooled = case.startswith("mae"), case.removesuffix("_pool").rpartition("_")[2]
    adapter = ViTAdapter(
        filled_vit(config, "avg" if is_mae else "token"), pool_prompts=is_mae and pooled not in ("img", "prompt")
    )
    method = PromptPoolVPT if pooled == "prompt" else VPT
    options = VPT.Config(prompt_length=config["prompt_length"], deep="_deep" in case)
    model = PromptedModel(adapter, method(options, adapter.shape, config["classes"]), config["classes"]).eval()
    fill_head(model.head, config)
    prompts = model.own.prompts
    rows: dict[str, Tensor | Rows] = {f"prompt.{block}": Rows(prompts, slice(block, block + 1)) for block in range(len(prompts))}
    run_case(model, config, golden["cases"][case], {**rows, "prompt.1..": Rows(prompts, slice(1, None))})


@pytest.mark.parametrize("length", [1, 5, 10, 50, 100, 200])
@pytest.mark.parametrize(("deep", "blocks"), [(True, 12), (False, 1)])
def test_parameter_count_on_vit_b16(length: int, deep: bool, blocks: int, vit_b16: ViTAdapter) -> None:
    with torch.device("meta"):
        model = PromptedModel(vit_b16, VPT(VPT.Config(prompt_length=length, deep=deep), vit_b16.shape, 5), 5)
    assert sum(parameter.numel() for parameter in model.own.parameters()) == blocks * length * 768


def test_projected_prompts() -> None:
    model = tiny(project=16, prompt_length=3)
    assert sum(parameter.numel() for parameter in model.own.parameters()) == 3 * 3 * 16 + 16 * 48 + 48
    assert model.own.prompts.abs().max() <= math.sqrt(6 / (3 * 8 * 8 + 16))
    assert model(torch.randn(2, 3, 32, 32, dtype=torch.double)).shape == (2, 5)


def test_deep_prompts_ignore_what_became_of_the_last_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny(dropout=0.0).eval()
    x = torch.randn(2, 3, 32, 32, dtype=torch.double)
    before = model(x)

    def noisy(block: int, tokens: Tokens, context: Context) -> Tokens:
        return tokens.with_prompts(torch.randn_like(tokens.prompt_tokens))

    monkeypatch.setattr(model.method, "after_block", noisy)
    torch.testing.assert_close(model(x), before, rtol=0, atol=0)


def test_sequence_length_and_positions() -> None:
    model = tiny(prompt_length=4, dropout=0.0).eval()
    seen: list[Tensor] = []
    for block in model.backbone.vit.blocks:
        block.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    x = torch.randn(2, 3, 32, 32, dtype=torch.double)
    model(x)
    assert [tokens.shape[1] for tokens in seen] == [1 + 4 + 16] * 3
    with torch.no_grad():
        model.backbone.vit.pos_embed.add_(1.0)
    model(x)
    assert torch.equal(seen[0][:, 1:5], seen[3][:, 1:5])
    assert not torch.equal(seen[0][:, 5:], seen[3][:, 5:])


def test_prompt_dropout_differs_between_images_and_stops_in_evaluation() -> None:
    model = tiny(dropout=0.5)
    model.train()
    tokens = model.backbone.embed(torch.zeros(2, 3, 32, 32, dtype=torch.double))
    dropped = model.method.before_block(0, tokens, Context(tokens.x, training=True)).prompt_tokens
    assert not torch.equal(dropped[0], dropped[1])
    kept = model.method.before_block(0, tokens, Context(tokens.x, training=False)).prompt_tokens
    assert torch.equal(kept[0], model.own.prompts[0])


def test_released_head() -> None:
    torch.manual_seed(0)
    adapter = ViTAdapter(VisionTransformer(img_size=32, patch_size=8, embed_dim=192, depth=1, num_heads=3, num_classes=0))
    head: Any = PromptedModel(adapter, VPT(VPT.Config(head_init="vpt"), adapter.shape, 200), 200).head
    assert head.weight.std().item() == pytest.approx(math.sqrt(2 / 200), rel=0.05)
    assert torch.allclose(head.bias, torch.tensor(-math.log(99)))


@pytest.mark.parametrize("deep", [True, False])
@pytest.mark.parametrize("start", [0, 1, 2])
def test_late_prompts(start: int, deep: bool) -> None:
    """They are the prompts of the later blocks of a model that has some in all, behind blocks without any."""
    late, whole = (tiny(prompt_length=4, deep=deep, dropout=0.0, start=first).eval() for first in (start, 0))
    assert late.own.prompts.shape == (3 - start if deep else 1, 4, 48)
    whole.head.load_state_dict(late.head.state_dict())
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    tokens = late.backbone.embed(images)
    for block in range(start):
        tokens = late.backbone.block(block, tokens)
    for block in range(start, 3):
        if deep or block == start:
            tokens = tokens.with_prompts(late.own.prompts[block - start if deep else 0])
        tokens = late.backbone.block(block, tokens)
    torch.testing.assert_close(late(images), late.head(late.backbone.pool(tokens)))
    assert torch.equal(late(images), whole(images)) == (start == 0)
    late.training_loss(images, torch.tensor([0, 1]))[0].backward()
    assert late.own.prompts.grad is not None and late.own.prompts.grad.flatten(1).any(1).all()


def test_a_start_that_no_block_has() -> None:
    with pytest.raises(UsageError, match=r"vpt\.start=3: this backbone has the blocks 0 to 2"):
        tiny(start=3)
