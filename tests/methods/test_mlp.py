"""MLP-k: golden outputs, exact counts, and batches of one image."""

from __future__ import annotations

import pytest
import torch

from golden_fill import check_gradient, check_logits, fill_head, filled, golden_model, images, labels, load_golden
from vpbench.backbones.vit import ViTAdapter
from vpbench.measure.size import parameter_counts
from vpbench.methods.mlp import MLP
from vpbench.models.prompted import PromptedModel

PARTS = {"0": "", "2": "bn."}  # of a hidden layer, by their places


def released_name(name: str) -> str:
    """``hidden1.2.weight`` as the golden file calls it."""
    layer, _, rest = name.partition(".")
    place, _, kind = rest.partition(".")
    return f"mlp_head.{layer.removeprefix('hidden')}.{PARTS[place]}{kind}" if layer.startswith("hidden") else f"head.{rest}"


@pytest.mark.parametrize(("case", "layers"), [("k0", 0), ("k3", 3)])
def test_golden(case: str, layers: int) -> None:
    golden = load_golden("baselines/mlp_head")
    config, expected = golden["config"], golden["cases"][case]
    model = golden_model(config, MLP, {"layers": layers})
    fill_head(model.head.last, config)
    with torch.no_grad():
        for name, tensor in model.head.state_dict().items():
            if each := expected["fills"].get(released_name(name)):
                tensor.copy_(filled(released_name(name), tensor.shape, each["scale"], each["offset"], config))
    logits = model.eval()(images(config))
    check_logits(logits, expected)
    loss = torch.nn.functional.cross_entropy(logits, labels(config))
    assert loss.item() == pytest.approx(expected["loss"], rel=1e-4)
    loss.backward()
    found = {released_name(name): parameter.grad for name, parameter in model.head.named_parameters()}
    assert found.keys() == expected["params"].keys()
    for name, gradient in expected["params"].items():
        check_gradient(found[name], gradient)


def test_counts_on_vit_b16(vit_b16: ViTAdapter) -> None:
    with torch.device("meta"):
        counts = parameter_counts(PromptedModel(vit_b16, MLP(MLP.Config(), vit_b16.shape, 100), 100))
    assert counts["params_trainable"] == counts["params_head"] == 1_776_384 + 769 * 100
    assert counts["params_method"] == 0


def test_one_image_in_a_batch(vit_b16: ViTAdapter) -> None:
    """It has no statistics of its own: running ones are taken and stay as they are."""
    torch.manual_seed(0)
    head = MLP(MLP.Config(dropout=0.0), vit_b16.shape, 5).make_head(48, 5)
    head(torch.randn(8, 48))
    before = {name: value.clone() for name, value in head.named_buffers()}
    one = torch.randn(1, 48)
    assert torch.equal(head(one), head.eval()(one))
    assert all(torch.equal(value, before[name]) for name, value in head.named_buffers())
