"""Parameters by part, and bytes on disk."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass

from safetensors.torch import save
from torch import nn

from vpbench.models.prompted import PromptedModel
from vpbench.models.saved import packed_tensors

AUXILIARY = "auxiliary_head."  # of a head's parameters, those that a prediction does not need


def parameter_counts(model: PromptedModel) -> dict[str, int]:
    """The ``params_*`` columns of a model that is not merged, but for :func:`parameters_by_part`.

    ``params_total`` is what a prediction needs: the backbone, with its source classifier where the method uses that, the method
    and the head.
    """
    return {
        "params_trainable": _count(parameter for _, parameter in model.trainable()),
        "params_method": _count(model.own.parameters()) + _count(model.scope.trained.values()),
        "params_active": model.method.active_parameters() + _count(model.scope.trained.values()),
        "params_head": _count(model.head.parameters()),
        "params_total": _count(model.parameters()),
    }


def parameters_by_part(model: PromptedModel) -> dict[str, int]:
    """Parameters by the names that the method gave its modules (``prompts``, ``specific``), then those of its head, of heads that
    training alone needs, of the backbone's source classifier, where the method uses that, and of the backbone; what a method
    trains inside the backbone is ``trained in the backbone``. The sum is ``params_total``.
    """
    parts: dict[str, int] = {}
    for name, parameter in model.own.named_parameters():
        part = name.partition(".")[0].rstrip("_")  # an underscore behind a name avoids a keyword of Python
        parts[part] = parts.get(part, 0) + parameter.numel()
    if trained := _count(model.scope.trained.values()):
        parts["trained in the backbone"] = trained
    auxiliary = _count(each for name, each in model.head.named_parameters() if name.startswith(AUXILIARY))
    parts["head"] = _count(model.head.parameters()) - auxiliary
    if auxiliary:
        parts["auxiliary heads, in training alone"] = auxiliary
    if (classifier := model.backbone.source_classifier) is not None:
        parts["source classifier"] = _count(classifier.parameters())
    return {**parts, "backbone": _count(model.parameters()) - sum(parts.values())}


@dataclass(frozen=True)
class ParameterGroup:
    """Tensors of one shape and one name, but for the number of their block or layer.

    Attributes:
        name: as the model names them, with ``*`` for what differs: ``updates.*_qkv.A``; of the method, of its ``head``, or of
            what it trains in the ``backbone``.
        shape: of each.
        tensors: their number.
        trained: or constant, as random projections are.
    """

    name: str
    shape: tuple[int, ...]
    tensors: int
    trained: bool

    @property
    def parameters(self) -> int:
        return self.tensors * math.prod(self.shape)

    @property
    def formula(self) -> str:
        """``12 x 2,304 x 8``."""
        factors = [self.tensors, *self.shape] if self.tensors > 1 or not self.shape else self.shape
        return " x ".join(f"{factor:,}" for factor in factors)


def parameter_groups(model: PromptedModel) -> list[ParameterGroup]:
    """Every parameter of the method and of its head, and what it trains in the backbone, in the model's order."""
    members: dict[tuple[str, tuple[int, ...], bool], list[str]] = {}
    for name, tensor in model.own_tensors():
        if isinstance(tensor, nn.Parameter):
            name = name.removeprefix("own.")
            numberless = re.sub(r"(?<![^._])\d+(?![^._])", "*", name)
            members.setdefault((numberless, tuple(tensor.shape), tensor.requires_grad), []).append(name)
    return [
        ParameterGroup(names[0] if len(names) == 1 else name, shape, len(names), trained)
        for (name, shape, trained), names in members.items()
    ]


def bytes_saved(model: PromptedModel) -> int:
    """Size of the method's and the head's tensors as a safetensors file, as the method packs them.

    Without the description of the model that ``--save weights`` adds, whose size depends on the names of the classes.
    """
    return len(save(packed_tensors(model)))


def _count(parameters: Iterable[nn.Parameter]) -> int:
    return sum(parameter.numel() for parameter in parameters)
