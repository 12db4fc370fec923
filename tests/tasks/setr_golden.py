"""The dense model of ``golden/setr.json``: a filled backbone, a filled head, labels, and checks of what is expected."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from golden_fill import check_gradient, filled, golden_model, matrix_scale
from vpbench.interface import Method
from vpbench.methods.bias import Bias
from vpbench.methods.ivpt import IVPT
from vpbench.methods.linear import Linear
from vpbench.methods.vpt import VPT
from vpbench.models.prompted import PromptedModel
from vpbench.tasks.segmentation.dense_head import DenseHead, HeadOptions, Level, head_class

Config = Mapping[str, Any]
HEADS = {"pup_zheng": "setr-pup-zheng", "naive": "setr-naive", "mla": "setr-mla", "bn_linear": "bn-linear"}


def dense_model(case: str, config: Config) -> tuple[PromptedModel, DenseHead]:
    """Backbone with the case's method, and its head, both filled; the head is in training mode in the cases ``*_train``."""
    kind = case.removesuffix("_train")
    model = golden_model(config, *_method(kind, config["prompt_length"]))
    fill_method(model, config)
    head = filled_head(HEADS.get(kind, "setr-pup"), config)
    head.train(case.endswith("_train"))
    return model, head


def _method(kind: str, length: int) -> tuple[type[Method[Any]], dict[str, Any]]:
    if kind == "ivpt_cdc_da":
        return IVPT, {"prompt_length": length, "ar": "none"}
    if kind in ("vpt_deep", "vpt_shallow"):
        return VPT, {"prompt_length": length, "deep": kind == "vpt_deep"}
    return (Bias if kind == "bias" else Linear), {}


def fill_method(model: PromptedModel, config: Config) -> None:
    """Fill prompts and Gammas, block by block."""
    with torch.no_grad():
        for name, stack in (("prompt", "prompts"), ("gamma", "gamma")):
            for index, tensor in enumerate(getattr(model.own, stack, ())):
                tensor.copy_(filled(f"{name}.{index}", tensor.shape, 0.5, 0.0, config))


def filled_head(name: str, config: Config) -> DenseHead:
    """A head on maps of the golden backbone, with as many steps as on patches of 16 pixels."""
    kind = head_class(name)
    blocks = config["taps"] if len(kind.default_blocks(_shape(config))) > 1 else config["taps"][-1:]
    width = 256 if name == "setr-pup-zheng" else config["head_channels"]
    levels = [Level(block, config["dim"], 16) for block in blocks]
    head = kind(levels, config["classes"], HeadOptions(width=width, auxiliary_weight=config["aux_weight"]))
    fill_module(head, config)
    return head.eval()


def _shape(config: Config) -> Any:
    from vpbench.interface import BackboneShape

    sizes = {"image_size": config["img"], "patch_size": config["patch"], "width": config["dim"], "depth": config["depth"]}
    return BackboneShape(family="vit", heads=config["heads"], prefix=1, **sizes)


def fill_module(head: nn.Module, config: Config) -> None:
    """Fill every tensor of a head under its own name."""
    with torch.no_grad():
        for name, tensor in head.state_dict().items():
            if name.endswith("num_batches_tracked"):
                continue
            last = name.rpartition(".")[2]
            if last in ("bias", "running_mean"):
                scale, offset = 0.1, 0.0
            else:
                scale, offset = (0.1, 1.0) if tensor.ndim == 1 else (matrix_scale(tensor.shape), 0.0)
            tensor.copy_(filled(name, tensor.shape, scale, offset, config))


def maps_of(model: PromptedModel, head: DenseHead, images: Tensor) -> list[Tensor]:
    """The golden file's maps: without final norm for every head."""
    return model.feature_maps(images, head.blocks)


def golden_labels(config: Config) -> Tensor:
    """Labels (B, img, img), int64, 255 where ignored."""
    u = filled("labels", (config["B"], config["img"], config["img"]), 1.0, 0.0, config).double()
    labels = ((u + 1) / 2 * (config["classes"] + 1)).floor().long()
    return labels.masked_fill(labels == config["classes"], config["ignore_index"])


def check_tensor(tensor: Tensor, expected: Mapping[str, Any], tolerance: float = 1e-4) -> None:
    """Shape, norm and first values agree."""
    assert list(tensor.shape) == expected["shape"]
    assert float(tensor.detach().double().norm()) == pytest.approx(expected["l2"], rel=tolerance)
    first = torch.tensor(expected["first"])
    scale = max(float(tensor.abs().max()), 1e-12)
    torch.testing.assert_close(tensor.detach().flatten()[: len(first)].float(), first, rtol=0, atol=tolerance * scale)


def check_gradients(model: PromptedModel, head: DenseHead, expected: Mapping[str, Any]) -> None:
    """Gradients of the head's tensors, the prompts, Gamma, and the backbone's biases."""
    known = {**dict(head.named_parameters()), **model.scope.parameters()}
    for name, each in expected.items():
        check_gradient(_gradient(model, known, name), each)


def _gradient(model: PromptedModel, known: Mapping[str, nn.Parameter], name: str) -> Tensor | None:
    if name == "gamma":
        return _grad(model.own.gamma)
    if name.startswith("prompt."):
        prompts = _grad(model.own.prompts)
        assert prompts is not None
        return prompts[0] if name == "prompt.0" else prompts[1:]
    return _grad(known[name])


def _grad(parameter: Any) -> Tensor | None:
    return parameter.grad  # type: ignore[no-any-return]


def named_logits(head: DenseHead, outputs: Sequence[tuple[float, Tensor]]) -> Iterator[tuple[str, float, Tensor]]:
    """Training outputs by the golden file's names."""
    for index, (weight, logits) in enumerate(outputs):
        yield "decode_head" if index == 0 else f"auxiliary_head.{index - 1}", weight, logits


def total_norm(tensors: Sequence[Tensor]) -> float:
    return math.sqrt(sum(float(each.double().square().sum()) for each in tensors))
