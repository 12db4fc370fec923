"""A trained model in the form that is exported: merged, in float32, by torch's own kernels; and the check that it is the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import timm
import torch
from torch import Tensor, nn

from vpbench.backbones.edits import is_hooked
from vpbench.backbones.frozen_linear import freeze_linears
from vpbench.backbones.weights import timm_architecture
from vpbench.core.errors import UnsupportedError
from vpbench.core.torch_state import own_torch_state
from vpbench.interface import Method
from vpbench.models.prompted import PromptedModel
from vpbench.models.saved import TrainedModel

EXACT = 1e-5
"""Largest difference of logits, relative to the largest of them where that is above 1, that is rounding of float32."""

_HOOKS = ("pixels", "before_block", "after_block", "readout")


def example_inputs(trained: TrainedModel, count: int = 3) -> Tensor:
    """Normalised noise, (count, 3, S, S), the same every time."""
    size = trained.transform.image_size
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(0))


def exact_logits(model: nn.Module, images: Tensor) -> Tensor:
    """In float32, whatever the precision of the run."""
    with torch.no_grad():
        logits: Tensor = model(images)
    return logits


def inference_form(trained: TrainedModel) -> PromptedModel:
    """Backbone, method and head, changed into the method's cheaper form for inference where it has one.

    Raises:
        UnsupportedError: when that form computes something else.
    """
    model, images = trained.model.eval(), example_inputs(trained)
    freeze_linears(model.backbone, "default")
    wanted = exact_logits(model, images)
    model.merge()
    check_logits(f"{trained.description.method.label}, merged,", exact_logits(model, images), wanted)
    return model


def check_logits(what: str, found: Tensor, wanted: Tensor, tolerance: float = EXACT) -> None:
    """
    Args:
        what: was exported, for the message.

    Raises:
        UnsupportedError: when logits differ by more than rounding.
    """
    difference = float((found - wanted).abs().max()) / max(1.0, float(wanted.abs().max()))
    if not difference <= tolerance:
        raise UnsupportedError(f"{what} differs from the trained model: logits by {difference:.1e}, {tolerance:g} allowed.")


def as_timm(model: PromptedModel, trained: TrainedModel) -> nn.Module | None:
    """The model as one of timm's, where merging has left nothing but values of tensors; else None.

    Args:
        model: see :func:`inference_form`.
    """
    if not isinstance(model.head, nn.Linear) or _acts(model, example_inputs(trained, 1)):
        return None
    name, arguments = timm_architecture(trained.description.backbone)
    with own_torch_state():
        plain: Any = timm.create_model(name, num_classes=len(trained.class_names), **arguments)
    classifier: nn.Module = plain.get_classifier()
    own = {f"{_name_of(classifier, plain)}.{name}" for name in classifier.state_dict()}
    state = model.backbone.timm_model.state_dict()
    if plain.state_dict().keys() - own != state.keys():
        return None  # merging added a bias that timm's model has not
    plain.load_state_dict(state, strict=False)
    classifier.load_state_dict(model.head.state_dict())
    return plain.eval().requires_grad_(False)


def _name_of(module: nn.Module, model: nn.Module) -> str:
    return next(name for name, each in model.named_modules() if each is module)


def _acts(model: PromptedModel, images: Tensor) -> bool:
    """Whether the method does anything in a forward pass, beside the values it gave to the backbone's tensors."""
    method, backbone = model.method, model.backbone
    if type(method).predict is not Method.predict or backbone.any_edits() or any(map(is_hooked, backbone.modules())):
        return True
    with _watched(method) as changes:
        exact_logits(model, images)
    return bool(changes)


@contextmanager
def _watched(method: Method[Any]) -> Iterator[list[str]]:
    """The names of hooks that return something else than what they were given."""
    changes: list[str] = []

    def watched(name: str, hook: Callable[..., Any], place: int) -> Callable[..., Any]:
        def call(*given: Any) -> Any:
            result = hook(*given)
            if result is not given[place]:
                changes.append(name)
            return result

        return call

    for name in _HOOKS:
        setattr(method, name, watched(name, getattr(method, name), 0 if name == "pixels" else 1))
    try:
        yield changes
    finally:
        for name in _HOOKS:
            delattr(method, name)
