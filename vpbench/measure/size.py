"""Parameters by part, and bytes on disk."""

from __future__ import annotations

from collections.abc import Iterable

from safetensors.torch import save
from torch import nn

from vpbench.model import PromptedModel


def parameter_counts(model: PromptedModel) -> dict[str, int]:
    """The ``params_*`` columns of a model that is not merged."""

    def count(parameters: Iterable[nn.Parameter]) -> int:
        return sum(parameter.numel() for parameter in parameters)

    return {
        "params_trainable": count(parameter for _, parameter in model.trainable()),
        "params_method": count(model.own.parameters()) + count(model.scope.trained),
        "params_active": model.method.active_parameters() + count(model.scope.trained),
        "params_head": count(model.head.parameters()),
        "params_total": count(model.parameters()),
    }


def bytes_saved(model: PromptedModel) -> int:
    """Size of the method's and the head's tensors as a safetensors file."""
    return len(save({name: tensor.detach().cpu().contiguous() for name, tensor in model.own_tensors()}))
