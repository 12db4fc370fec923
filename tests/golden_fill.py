"""Tensors filled by a formula, and models made of them, for the expected numbers in ``tests/golden``.

``VPBENCH_GOLDEN=DIR`` takes the files from another folder: other sizes, other numbers, another name prefix.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from timm.models import VisionTransformer
from torch import Tensor, nn

from vpbench.backbones.vit import ViTAdapter
from vpbench.interface import Context, Method
from vpbench.models.prompted import PromptedModel

Config = Mapping[str, Any]


def fnv1a64(text: str) -> int:
    """The 64-bit FNV-1a hash of a text."""
    value = 0xCBF29CE484222325
    for byte in text.encode():
        value = ((value ^ byte) * 0x100000001B3) & 0xFFFFFFFFFFFFFFFF
    return value


def fill(name: str, shape: Sequence[int], scale: float = 1.0, offset: float = 0.0) -> np.ndarray[Any, np.dtype[np.float32]]:
    """``offset + scale u``, u uniform on [-1, 1) from splitmix64 of the name's hash and the index; float32."""
    count = math.prod(shape)
    with np.errstate(over="ignore"):
        z = np.uint64(fnv1a64(name)) + np.arange(count, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    u = (z >> np.uint64(11)).astype(np.float64) / 2.0**53 * 2.0 - 1.0
    filled: np.ndarray[Any, np.dtype[np.float32]] = (offset + scale * u).reshape(tuple(shape)).astype(np.float32)
    return filled


def load_golden(name: str) -> dict[str, Any]:
    """The file ``name``.json: its ``config`` and its ``cases``; the test is skipped where another folder lacks it."""
    if not golden_path(name).exists() and "VPBENCH_GOLDEN" in os.environ:
        pytest.skip(f"{golden_path(name)} does not exist")
    content: dict[str, Any] = json.loads(golden_path(name).read_text())
    return content


def golden_path(name: str) -> Path:
    """Where the file ``name``.json is looked for."""
    return Path(os.environ.get("VPBENCH_GOLDEN", Path(__file__).parent / "golden")) / f"{name}.json"


def golden_cases(name: str) -> list[str]:
    """Names of the file's cases, to parametrise a test with; none where there is no such file."""
    return sorted(load_golden(name)["cases"]) if golden_path(name).exists() else []


def filled(name: str, shape: Sequence[int], scale: float, offset: float, config: Config) -> Tensor:
    """The tensor called ``name``, under the file's prefix."""
    return torch.from_numpy(fill(config.get("prefix", "") + name, shape, scale, offset))


def matrix_scale(shape: Sequence[int]) -> float:
    """Scale of a weight: sqrt(3 / product of all dimensions but the first)."""
    return math.sqrt(3 / math.prod(shape[1:]))


def images(config: Config) -> Tensor:
    """The input, (B, 3, img, img)."""
    return filled("images", (config["B"], 3, config["img"], config["img"]), 1.0, 0.0, config)


def labels(config: Config) -> Tensor:
    """0, 1, 2, ... modulo the number of classes, (B,)."""
    classes: Tensor = torch.arange(config["B"]) % config["classes"]
    return classes


def filled_vit(config: Config, global_pool: str = "token") -> VisionTransformer:
    """A plain ViT without classifier, every tensor filled under timm's own name; with ``avg`` its norm is ``fc_norm``."""
    vit = VisionTransformer(
        img_size=config["img"], patch_size=config["patch"], embed_dim=config["dim"], depth=config["depth"],
        num_heads=config["heads"], num_classes=0, global_pool=global_pool,
    )  # fmt: skip
    with torch.no_grad():
        for name, tensor in vit.state_dict().items():
            tensor.copy_(filled(name, tensor.shape, *_scale_and_offset(name, tensor.shape), config))
    vit.eval()
    return vit


def _scale_and_offset(name: str, shape: Sequence[int]) -> tuple[float, float]:
    if name.endswith("bias"):
        return 0.1, 0.0
    if name in ("pos_embed", "cls_token"):
        return 0.5, 0.0
    if "norm" in name:
        return 0.1, 1.0
    return matrix_scale(shape), 0.0


def golden_model(config: Config, method: type[Method[Any]], settings: Mapping[str, Any]) -> PromptedModel:
    """A filled backbone and head with ``method``, whose own tensors are still to be filled; in evaluation mode."""
    adapter = ViTAdapter(filled_vit(config))
    model = PromptedModel(adapter, method(method.Config(**settings), adapter.shape, config["classes"]), config["classes"])
    fill_head(model.head, config)
    return model.eval()


def fill_head(head: nn.Module, config: Config) -> None:
    """Fill a linear head as ``head.weight`` and ``head.bias``."""
    with torch.no_grad():
        for name, tensor in head.state_dict().items():
            tensor.copy_(filled(f"head.{name}", tensor.shape, *_scale_and_offset(name, tensor.shape), config))


def check_logits(logits: Tensor, case: Mapping[str, Any], tolerance: float = 1e-4) -> None:
    """Logits agree to ``tolerance`` of the largest expected one."""
    expected = torch.tensor(case["logits"])
    torch.testing.assert_close(logits.detach().float(), expected, rtol=0, atol=tolerance * float(expected.abs().max()))


def check_gradient(gradient: Tensor | None, expected: Mapping[str, Any], tolerance: float = 1e-4, floor: float = 0.0) -> None:
    """Norm and first values of a gradient agree.

    Args:
        tolerance: relative to the norm; for single values, to the gradient's scale.
        floor: least norm that the tolerance is relative to, for gradients that are zero up to rounding.
    """
    if expected["grad_l2"] is None:
        assert gradient is None or not gradient.any()
        return
    assert gradient is not None
    assert list(gradient.shape) == expected["shape"]
    norm = max(expected["grad_l2"], floor)
    assert float(gradient.double().norm()) == pytest.approx(expected["grad_l2"], abs=tolerance * norm)
    first = torch.tensor(expected["grad_first"])
    scale = max(norm / math.sqrt(gradient.numel()), float(first.abs().max()))
    torch.testing.assert_close(gradient.flatten()[: len(first)].float(), first, rtol=tolerance, atol=tolerance * scale)


class Rows:
    """Some rows of a parameter, for files that name them one by one; None for all, behind one more dimension."""

    def __init__(self, parameter: nn.Parameter, rows: int | slice | None) -> None:
        self._parameter, self._rows = parameter, rows

    def copy_(self, values: Tensor) -> None:
        self._parameter.data[self._rows] = values

    @property
    def grad(self) -> Tensor | None:
        return None if self._parameter.grad is None else self._parameter.grad[self._rows]


def run_case(model: PromptedModel, config: Config, case: Mapping[str, Any], tensors: Mapping[str, Tensor | Rows]) -> None:
    """Fill a method's tensors as a golden case says; logits, loss and every gradient are those of the released code.

    Args:
        model: in the mode of the case, with filled backbone and head, see :func:`golden_model`.
        config: of the file.
        case: with ``fills``, ``logits``, ``loss`` and ``params``.
        tensors: the method's, by the names of the file.
    """
    with torch.no_grad():
        for name, rule in case["fills"].items():
            values = filled(name, rule["shape"], rule["scale"], rule["offset"], config)
            for index, value in rule.get("override", {}).items():
                values.view(-1)[int(index)] = value
            tensors[name].copy_(values)
    logits = model(images(config))
    check_logits(logits, case)
    loss = model.method.loss(logits.float(), labels(config), Context(images(config), training=False))
    assert loss.item() == pytest.approx(case["loss"], rel=1e-4)
    loss.backward()
    known = {**tensors, **{f"head.{name}": each for name, each in model.head.named_parameters()}}
    largest = max((each["grad_l2"] or 0.0) for each in case["params"].values())
    for name, expected in case["params"].items():
        check_gradient(known[name].grad, expected, tolerance=1e-3, floor=1e-3 * largest)
