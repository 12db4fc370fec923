"""VPT on Swin against the numbers of VPT's released code, each image run alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from timm.models import SwinTransformer
from torch import Tensor
from torch.nn.functional import cross_entropy

from golden_fill import check_gradient, check_logits, filled, golden_cases, load_golden, matrix_scale
from vpbench.backbones.swin import SwinAdapter
from vpbench.interface.per_block import stage_tensors
from vpbench.methods.linear import Linear
from vpbench.methods.vpt import VPT
from vpbench.models.prompted import PromptedModel

CASES = golden_cases("swin")


def scale_and_offset(name: str, tensor: Tensor) -> tuple[float, float]:
    if name.endswith("bias"):
        return 0.1, 0.0
    if name.endswith("relative_position_bias_table"):
        return 0.5, 0.0
    return (0.1, 1.0) if "norm" in name else (matrix_scale(tensor.shape), 0.0)


def filled_swin(config: Mapping[str, Any]) -> SwinTransformer:
    """A Swin without classifier, every tensor filled under timm's own name."""
    sizes = {key: config[key] for key in ("img_size", "patch_size", "embed_dim", "window_size")}
    swin = SwinTransformer(depths=tuple(config["depths"]), num_heads=tuple(config["num_heads"]), num_classes=0, **sizes)
    with torch.no_grad():
        for name, tensor in swin.state_dict().items():
            tensor.copy_(filled(name, tensor.shape, *scale_and_offset(name, tensor), config))
    return swin.eval()


def golden_swin(case: str, config: Mapping[str, Any], pool_prompts: bool = True) -> Any:
    adapter = SwinAdapter(filled_swin(config), pool_prompts=pool_prompts)
    deep = case == "vpt_swin_deep"
    method = Linear(Linear.Config(), adapter.shape, config["num_classes"])
    if case != "plain":
        options = VPT.Config(prompt_length=config["prompt_length"], deep=deep, dropout=0.0)
        method = VPT(options, adapter.shape, config["num_classes"])
    model: Any = PromptedModel(adapter, method, config["num_classes"]).eval()
    with torch.no_grad():
        for name, tensor in model.head.state_dict().items():  # timm's own name for the classifier of a Swin
            tensor.copy_(filled(f"head.fc.{name}", tensor.shape, *scale_and_offset(name, tensor), config))
        for block, prompts in enumerate(all_prompts(model)):
            prompts.copy_(filled(f"prompt.{block}", prompts.shape, 0.5, 0.0, config))
    return model


def all_prompts(model: Any) -> list[Tensor]:
    """Prompts (N, D) of each block that has some."""
    return [row for tensor in stage_tensors(getattr(model.own, "prompts", torch.empty(0))) for row in tensor]


def inputs(config: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    count, size = config["B"], config["img_size"]
    return filled("images", (count, 3, size, size), 1.0, 0.0, config), torch.arange(count) % config["num_classes"]


def gradients(model: Any, config: Mapping[str, Any]) -> dict[str, Tensor]:
    """Gradients by the file's names: ``prompt.0``, and per stage those of all later prompts, with a leading axis of blocks."""
    found: dict[str, Tensor] = {"head.weight": model.head.weight.grad}
    if hasattr(model.own, "prompts"):
        stages: list[Any] = [tensor.grad for tensor in stage_tensors(model.own.prompts)]
        found["prompt.0"] = stages[0][:1]
        found |= {f"stage{index}": grad[1 if index == 0 else 0 :] for index, grad in enumerate(stages)}
    return found


@pytest.mark.parametrize("case", CASES)
def test_golden(case: str) -> None:
    golden = load_golden("swin")
    config, expected = golden["config"], golden["cases"][case]
    model, (images, labels) = golden_swin(case, config), inputs(config)
    logits = model(images)
    check_logits(logits, expected)
    if "loss" not in expected:
        return
    loss = cross_entropy(logits, labels)
    assert loss.item() == pytest.approx(expected["loss"], rel=1e-4)
    torch.autograd.backward(loss)
    found = gradients(model, config)
    for name, gradient in expected["params"].items():
        check_gradient(found[name], gradient)


@pytest.mark.parametrize("case", CASES)
def test_images_of_a_batch_do_not_mix(case: str) -> None:
    config = load_golden("swin")["config"]
    model, (images, _) = golden_swin(case, config), inputs(config)
    alone = torch.cat([model(image[None]) for image in images])
    torch.testing.assert_close(model(images), alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("case", [case for case in CASES if case != "plain"])
def test_prompts_stay_out_of_the_mean_unless_asked(case: str) -> None:
    config = load_golden("swin")["config"]
    images, _ = inputs(config)
    with_prompts, without = (golden_swin(case, config, pool_prompts=pooled)(images) for pooled in (True, False))
    assert (with_prompts - without).abs().max() > 1e-2


def test_the_file_names_the_tensors_of_timm() -> None:
    golden = load_golden("swin")
    state = filled_swin(golden["config"]).state_dict()
    for case in golden["cases"].values():
        for name, shape in case.get("timm_names", {}).items():
            if not name.startswith("head."):
                assert list(state[name].shape) == shape
