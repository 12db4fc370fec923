"""From specifications to a model."""

from __future__ import annotations

import copy
from functools import lru_cache

import torch

from vpbench.backbones.base import Backbone
from vpbench.backbones.classifier import add_empty_classifier
from vpbench.backbones.named import backbone_card, backbone_names
from vpbench.backbones.weights import load_backbone
from vpbench.models.prompted import PromptedModel
from vpbench.models.registry import method_class
from vpbench.spec.run_spec import BackboneSpec, MethodSpec, TaskSpec
from vpbench.tasks import make_task

CLASSIFICATION = TaskSpec()


def build_model(
    method: MethodSpec, backbone: BackboneSpec, classes: int, device: torch.device | str = "cpu", task: TaskSpec = CLASSIFICATION
) -> PromptedModel:  # fmt: skip
    """A frozen backbone with a freshly initialised method, in training mode.

    The method's values come from torch's global random stream of the CPU, so that they are the same on every device.

    Args:
        method: which method, with all options.
        backbone: which backbone and weights.
        classes: of the data set.
        device: where the model ends up.
        task: what is predicted.

    Raises:
        WeightsError: when the weights cannot be loaded.
        UsageError: when an option does not fit the backbone.
        UnsupportedError: when the method does not work on the backbone.
    """
    return add_method(method, load_backbone(backbone, needs_classifier(method)), classes, task).to(device)


def build_empty(
    method: MethodSpec, backbone: BackboneSpec, classes: int, device: str, task: TaskSpec = CLASSIFICATION
) -> PromptedModel:  # fmt: skip
    """The same model without the backbone's values, for counting only; on the meta device it takes no memory.

    Raises:
        UnsupportedError: when the method does not work on the backbone, or needs a classifier that its weights do not have.
    """
    adapter = empty_backbone(backbone, device)
    with torch.device(device), torch.random.fork_rng(devices=[]):
        if needs_classifier(method):
            add_empty_classifier(adapter, backbone, device)
        return add_method(method, adapter, classes, task)


def empty_backbone(backbone: BackboneSpec, device: str) -> Backbone:
    """A backbone without its values."""
    without_weights = backbone.model_copy(update={"weights": "random", "path": None, "sha256": None})
    card = backbone_card(backbone.name).model_dump_json() if backbone.name in backbone_names() else ""
    adapter = copy.deepcopy(_on_meta(without_weights.model_dump_json(), card))
    adapter.to_empty(device=device)
    for buffer in adapter.buffers():  # some hold indices, which must not point just anywhere
        buffer.zero_()
    return adapter


@lru_cache(maxsize=8)  # a plan builds a model for every method, and timm takes a tenth of a second and more for each
def _on_meta(backbone: str, _card: str) -> Backbone:
    """The backbone of a specification, as JSON, on the meta device. To be copied, as methods change what they are built on.

    Args:
        _card: of the backbone, as JSON; it may have changed since.
    """
    with torch.device("meta"):
        return load_backbone(BackboneSpec.model_validate_json(backbone))


def add_method(method: MethodSpec, adapter: Backbone, classes: int, task: TaskSpec = CLASSIFICATION) -> PromptedModel:
    """A freshly initialised method on a backbone that is there already, and that it may change."""
    kind = method_class(method.name)
    own = kind(kind.Config.model_validate(method.config), adapter.shape, classes)
    return PromptedModel(adapter, own, classes, make_task(task, classes))


def needs_classifier(method: MethodSpec) -> bool:
    """Whether the method uses the classifier that the backbone was pretrained with."""
    return method_class(method.name).needs_source_classifier(method.config)
