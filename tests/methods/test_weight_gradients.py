"""No method computes gradients of weights that it does not train: that would cost half of a backward pass, for nothing.

Where autograd is not asked for the gradient of a frozen weight W it computes none. A method can make it compute one all the same,
by using a function of W and its own tensors, as W + B A. So products of the backward pass are looked at: one that sums over all
tokens, and is as large as a weight of the backbone, is a weight gradient.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from fake_gpu import moved_to_meta
from sweeps import FEW, case
from test_contract import CLASSES, SIZE, VIT, build, labels
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from vpbench.backbones.family import adapter_for
from vpbench.interface import F, Method, MethodConfig, Scope
from vpbench.models.prompted import PromptedModel

IMAGES = 5
PATCHES = 16
Shapes = Counter[tuple[int, ...]]


class LargeProducts(TorchDispatchMode):
    """Counts results of products that sum over at least all patch tokens of a batch, and gradients of convolutions, by shape.

    Attributes:
        found: numbers of results by their shape, the smaller side first.
    """

    def __init__(self) -> None:
        super().__init__()
        self.found: Shapes = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        out = func(*args, **(kwargs or {}))
        packet = func.overloadpacket
        if packet in (torch.ops.aten.mm, torch.ops.aten.addmm) and args[-2].shape[-1] >= IMAGES * PATCHES:
            self.found[tuple(sorted(out.shape))] += 1
        elif packet is torch.ops.aten.bmm and args[0].shape[-1] >= PATCHES:  # by image
            self.found[tuple(sorted(out.shape[1:]))] += 1
        elif packet is torch.ops.aten.convolution_backward and args[-1][1]:
            self.found[_as_matrix(out[1])] += 1
        return out


def _as_matrix(weight: Tensor) -> tuple[int, ...]:
    return tuple(sorted(weight.flatten(1).shape))


def frozen_shapes(model: PromptedModel) -> set[tuple[int, ...]]:
    """Of the backbone's weights, and of a third or two of the joint projection."""
    matrices = [weight for weight in model.backbone.timm_model.parameters() if weight.ndim > 1 and len(weight) > 1]
    return {_as_matrix(weight) for weight in matrices} | {(192, 192), (192, 384)}


def gradients(model: PromptedModel) -> tuple[Shapes, Shapes]:
    """Weight gradients of a step that have the shape of a weight of the backbone, and those of them that are trained."""
    model = moved_to_meta(model)
    model.backbone.skip_unused = False
    shapes = frozen_shapes(model)
    images, targets = torch.empty(IMAGES, 3, SIZE, SIZE, device="meta"), torch.empty(IMAGES, dtype=torch.long, device="meta")
    loss, _ = model.train().training_loss(images, targets)
    with LargeProducts() as products:
        loss.backward()
    trained = Counter(_as_matrix(tensor) for _, tensor in model.trainable() if tensor.ndim > 1)
    return (
        Counter({shape: count for shape, count in products.found.items() if shape in shapes}),
        Counter({shape: count for shape, count in trained.items() if shape in shapes}),
    )


# Tuners of peft whose update is a function of the whole weight: its gradient is that of what they train.
OF_THE_WEIGHT = {f"peft:{name}" for name in ("boft", "fourierft", "hra", "loha", "lokr")}


@pytest.mark.parametrize("label", [case(label, always=FEW) for label in labels() if label not in OF_THE_WEIGHT])
def test_only_trained_weights_get_gradients(label: str) -> None:
    computed, trained = gradients(build(label))
    assert not computed - trained


class Wasteful(Method[MethodConfig]):
    """A low-rank update that is added to the weight instead of to the output."""

    title, summary, paper, fidelity = "Wasteful", "Adds to a weight.", "none", "paper"

    def build(self) -> None:
        self.own.A, self.own.B = nn.Parameter(torch.ones(2, 192)), nn.Parameter(torch.ones(768, 2))

    def attach(self, scope: Scope) -> None:
        layer: Any = scope.module("fc1", 1)
        scope.after("fc1", lambda x, y: F.linear(x, layer.weight + self.own.B @ self.own.A, layer.bias), 1)


def test_a_gradient_of_a_frozen_weight_is_found() -> None:
    adapter = adapter_for(VIT())
    computed, trained = gradients(PromptedModel(adapter, Wasteful(MethodConfig(), adapter.shape, CLASSES), CLASSES))
    assert computed - trained == Counter({(192, 768): 1})


def test_trained_weights_are_counted() -> None:
    """Each weight of both blocks once; the patch embedding, too."""
    computed, trained = gradients(build("full"))
    assert computed == trained == Counter({(192, 768): 4, (192, 576): 2, (192, 192): 3})
