"""Parameters by part, and bytes on disk."""

from __future__ import annotations

from collections.abc import Iterable

from safetensors.torch import save
from torch import nn

from vpbench.models.prompted import PromptedModel
from vpbench.models.saved import packed_tensors


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
    """Parameters by the names that the method gave its modules (``prompts``, ``specific``), then those of its head, of the
    backbone's source classifier, where the method uses that, and of the backbone; what a method trains inside the backbone is
    ``trained in the backbone``. The sum is ``params_total``.
    """
    parts: dict[str, int] = {}
    for name, parameter in model.own.named_parameters():
        part = name.partition(".")[0].rstrip("_")  # an underscore behind a name avoids a keyword of Python
        parts[part] = parts.get(part, 0) + parameter.numel()
    if trained := _count(model.scope.trained.values()):
        parts["trained in the backbone"] = trained
    parts["head"] = _count(model.head.parameters())
    if (classifier := model.backbone.source_classifier) is not None:
        parts["source classifier"] = _count(classifier.parameters())
    return {**parts, "backbone": _count(model.parameters()) - sum(parts.values())}


def bytes_saved(model: PromptedModel) -> int:
    """Size of the method's and the head's tensors as a safetensors file, as the method packs them.

    Without the description of the model that ``--save weights`` adds, whose size depends on the names of the classes.
    """
    return len(save(packed_tensors(model)))


def _count(parameters: Iterable[nn.Parameter]) -> int:
    return sum(parameter.numel() for parameter in parameters)
