"""Linear probing, BitFit, Partial-k and full fine-tuning: golden gradients, exact counts, and what must not be trained."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from timm.models import VisionTransformer

from golden_fill import check_gradient, check_logits, golden_model, images, labels, load_golden
from vpbench.backbones.family import adapter_for
from vpbench.backbones.vit import ViTAdapter
from vpbench.core.errors import UsageError
from vpbench.interface import Method
from vpbench.measure.size import parameter_counts
from vpbench.methods.bias import Bias
from vpbench.methods.full import Full
from vpbench.methods.linear import Linear
from vpbench.methods.partial import Partial
from vpbench.models.prompted import PromptedModel


@pytest.mark.parametrize(
    ("case", "method"), [("linear", Linear), ("bias", Bias), ("partial-1", Partial), ("full", Full)], ids=lambda each: str(each)
)
def test_golden(case: str, method: type[Method[Any]]) -> None:
    golden = load_golden("baselines/partial")
    config, expected = golden["config"], golden["cases"][case]
    model = golden_model(config, method, {})
    logits = model(images(config))
    check_logits(logits, expected)
    loss = torch.nn.functional.cross_entropy(logits, labels(config))
    assert loss.item() == pytest.approx(expected["loss"], rel=1e-4)
    loss.backward()
    parameters = {**dict(model.backbone.vit.named_parameters()), **{f"head.{k}": v for k, v in model.head.named_parameters()}}
    assert {name for name, tensor in parameters.items() if tensor.requires_grad} == set(expected["params"])
    for name, gradient in expected["params"].items():
        check_gradient(parameters[name].grad, gradient, floor=1e-3 * max(each["grad_l2"] for each in expected["params"].values()))
    assert parameter_counts(model)["params_trainable"] == expected["trainable_count"]


def test_counts_on_vit_b16(vit_b16: ViTAdapter) -> None:
    with torch.device("meta"):
        counts = parameter_counts(PromptedModel(vit_b16, Partial(Partial.Config(), vit_b16.shape, 100), 100))
    assert counts["params_method"] == counts["params_active"] == 7_087_872 + 1_536
    assert counts["params_trainable"] == 7_089_408 + 769 * 100


@pytest.mark.parametrize(("method", "expected"), [(Full, 85_798_656), (Bias, 102_912)])
def test_counts_of_more_on_vit_b16(method: type[Method[Any]], expected: int, vit_b16: ViTAdapter) -> None:
    with torch.device("meta"):
        model = PromptedModel(vit_b16, method(method.Config(), vit_b16.shape, 100), 100)
    counts = parameter_counts(model)
    model.scope.undo()
    assert counts["params_method"] == counts["params_active"] == expected


@pytest.mark.parametrize("pool", ["token", "avg"])
@pytest.mark.parametrize("blocks", [1, 2])
def test_all_of_it_changes_and_comes_back(blocks: int, pool: str) -> None:
    """Also where the final norm stands behind the pooling."""
    torch.manual_seed(0)
    vit = VisionTransformer(img_size=32, patch_size=8, embed_dim=48, depth=3, num_heads=4, num_classes=0, global_pool=pool)
    adapter = adapter_for(vit)
    before = {name: value.clone() for name, value in vit.state_dict().items()}
    model = PromptedModel(adapter, Partial(Partial.Config(blocks=blocks), adapter.shape, 5), 5)
    optimizer = torch.optim.SGD([tensor for _, tensor in model.trainable()], lr=0.1)
    model.training_loss(torch.randn(4, 3, 32, 32), torch.arange(4))[0].backward()
    optimizer.step()
    changed = {name for name, value in vit.state_dict().items() if not torch.equal(value, before[name])}
    last = {name for name in before if any(name.startswith(f"blocks.{3 - index}.") for index in range(1, blocks + 1))}
    assert changed == last | {name for name in before if name.startswith(("norm.", "fc_norm."))}
    model.scope.undo()
    assert all(torch.equal(value, before[name]) for name, value in vit.state_dict().items())
    assert not any(parameter.requires_grad for parameter in vit.parameters())


def test_more_blocks_than_there_are(vit_b16: ViTAdapter) -> None:
    with pytest.raises(UsageError, match=r"partial.blocks=13: this backbone has 12 blocks"), torch.device("meta"):
        PromptedModel(vit_b16, Partial(Partial.Config(blocks=13), vit_b16.shape, 5), 5)
