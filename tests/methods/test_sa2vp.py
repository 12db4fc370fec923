"""SA2VP: golden outputs of the released plain file, counts, neighbourhoods."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from golden_fill import check_gradient, check_logits, filled, golden_cases, golden_model, images, labels, load_golden
from vpbench.backbones.vit import ViTAdapter
from vpbench.measure.size import parameter_counts
from vpbench.methods.sa2vp import SA2VP, _neighbours
from vpbench.models.prompted import PromptedModel

FILE = "newer/sa2vp"


def tensors(model: PromptedModel) -> dict[str, Tensor]:
    """By the golden file's names: ``sa2vp.prompt``, ``sa2vp.deep.0.scale``, ``sa2vp.0.down.weight`` ..."""
    found = {}
    for name, tensor in model.own.named_parameters():
        kind, index, part = name.split(".", 2)
        prefix = "sa2vp." + (f"{index}." if kind == "bottlenecks" else "" if index == "0" else f"deep.{int(index) - 1}.")
        found[prefix + part.replace("factor", "prompt")] = tensor
    return found


@pytest.mark.parametrize("case", golden_cases(FILE))
def test_golden(case: str) -> None:
    golden = load_golden(FILE)
    config, expected = golden["config"], golden["cases"][case]
    model = golden_model(config, SA2VP, {"inner": config["inner"], "scale": config["scale"], "dropout": 0.0})
    with torch.no_grad():
        for name, rule in golden["cases"]["filled"]["fills"].items():
            values = filled(name, rule["shape"], rule["scale"], rule["offset"], config)
            is_zero = case == "identity" and ".up." in name
            tensors(model)[name].copy_(torch.zeros_like(values) if is_zero else values)
    check_logits(model(images(config)), expected)
    model.train()
    context = model.context(images(config))
    logits = model.head(model.features(images(config), context))
    check_logits(model.method.prompt_logits(context), {"logits": expected["prompt_logits"]})  # type: ignore[attr-defined]
    loss = model.method.loss(logits, labels(config), context)
    assert loss.item() == pytest.approx(expected["loss"], rel=1e-4)
    loss.backward()
    known = {**tensors(model), **{f"head.{name}": each for name, each in model.head.named_parameters()}}
    gradients: dict[str, Any] = expected.get("params", {})
    for name, gradient in gradients.items():
        largest = max((each["grad_l2"] or 0.0) for each in gradients.values())
        check_gradient(known[name].grad, gradient, tolerance=1e-3, floor=1e-3 * largest)


@pytest.mark.parametrize(("inner", "expected"), [(8, 202_200), (16, 372_912), (32, 714_336), (64, 1_397_184)])
def test_counts_on_vit_b16(inner: int, expected: int, vit_b16: ViTAdapter) -> None:
    with torch.device("meta"):
        counts = parameter_counts(PromptedModel(vit_b16, SA2VP(SA2VP.Config(inner=inner), vit_b16.shape, 100), 100))
    assert counts["params_method"] == counts["params_active"] == expected


def test_neighbourhoods() -> None:
    mask = _neighbours(4, 2)
    assert mask[:2].all() and not mask[2:, :2].any()
    assert mask[2:].sum(1).tolist() == [4, 6, 6, 4, 6, 9, 9, 6, 6, 9, 9, 6, 4, 6, 6, 4]
    assert mask[2 + 5].nonzero().flatten().tolist() == [2 + each for each in (0, 1, 2, 4, 5, 6, 8, 9, 10)]
