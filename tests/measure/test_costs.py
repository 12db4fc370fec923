"""Measuring methods side by side: shared weights, ratios, and processes for memory."""

from __future__ import annotations

import pytest
import torch

from vpbench.backbones.weights import load_backbone
from vpbench.core.errors import UsageError
from vpbench.measure import costs
from vpbench.measure.cost_request import CostRequest
from vpbench.measure.peak import Load, peak_of
from vpbench.spec.run_spec import BackboneSpec


def test_twins_share_values_and_nothing_else(tiny: BackboneSpec) -> None:
    first = load_backbone(tiny)
    second = costs.with_shared_weights(first)
    images = torch.randn(2, 3, 32, 32)
    expected = first(images)
    second.vit.blocks[0].attn = torch.nn.Identity()
    second.vit.norm.bias.requires_grad_(True)
    assert torch.equal(first(images), expected)
    assert not any(value.requires_grad for value in first.parameters())
    own = {value.data_ptr() for value in first.parameters()}
    assert all(value.data_ptr() in own for value in second.parameters())


def test_ratio_is_of_the_same_round() -> None:
    """A machine that is three times slower in one round does not change it."""
    assert costs._ratio([([2.0], [1.0]), ([6.0, 6.0], [3.0]), ([2.2], [1.1])]) == pytest.approx(2)


@pytest.mark.sweep
def test_what_goes_wrong_in_the_process_is_told(tiny: BackboneSpec) -> None:
    nowhere = tiny.model_copy(update={"name": "vit_nowhere"})
    with pytest.raises(RuntimeError, match=r"Unknown model \(vit_nowhere\)"):
        peak_of(Load(nowhere, None, classes=10, batch=2, training=False, device="cpu", precision="fp32", threads=1))


def test_options_are_those_of_a_suite_and_then_the_user_s() -> None:
    def options(method: str, **more: object) -> dict[str, object]:
        return CostRequest([method], "vit-nano", **more).resolved()[1][0].config  # type: ignore[arg-type]

    own, of_suite = options("bpt"), options("bpt", suite="open-mini")
    assert own["prompt_length"] != of_suite["prompt_length"] == 10  # benchmarks/recipes/bpt.toml
    assert options("bpt", suite="open-mini", settings={"bpt.prompt_length": 3})["prompt_length"] == 3
    assert options("linear", suite="open-mini") == options("linear")
    with pytest.raises(UsageError, match="Did you mean 'open-mini'"):
        options("bpt", suite="opn-mini")
    with pytest.raises(UsageError, match="suite mini-seg is of segmentation: say --task segmentation"):
        options("linear", suite="mini-seg")
