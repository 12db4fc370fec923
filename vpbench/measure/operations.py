"""Floating-point operations of a model, the same number on every machine.

All matrix products and convolutions of one image are counted, prompts, prompters and per-image networks included: of the
method as papers describe it, where every token goes through every block, and for ``flops_inference`` of what is executed, after
``merge()`` and without outputs that nothing uses. Counting happens on the meta device with explicit attention, so that the
result depends on no machine and no kernel. Normalisation, softmax, activations and sums are left out, about a hundredth of a
ViT, and so are the decompositions of ViaPT's training. A multiply-add counts 2 in
``flops_*`` and 1 in ``macs_*``.

fvcore's figure stands beside them: multiply-adds by another's count, which papers often print as FLOPs.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Mapping
from functools import cache

import torch
from torch.utils.flop_counter import FlopCounterMode

from vpbench.interface import BackboneShape, Method
from vpbench.models.build import CLASSIFICATION, build_empty, empty_backbone
from vpbench.models.prompted import PromptedModel
from vpbench.spec.run_spec import BackboneSpec, MethodSpec, TaskSpec


def count_operations(
    method: MethodSpec, backbone: BackboneSpec, classes: int, task: TaskSpec = CLASSIFICATION
) -> dict[str, int | None]:  # fmt: skip
    """``flops_forward``, ``flops_inference``, ``macs_forward``, ``flops_train_step`` and ``macs_fvcore``, all per image."""
    return dict(_counted(method.model_dump_json(), backbone.model_dump_json(), task.model_dump_json(), classes))


@cache
def _counted(method: str, backbone: str, task: str, classes: int) -> Mapping[str, int | None]:
    """Of specifications as JSON. Cached: seeds and data sets with as many classes share it, and it takes a second."""
    specs = MethodSpec.model_validate_json(method), BackboneSpec.model_validate_json(backbone)
    of_task = TaskSpec.model_validate_json(task)
    return {
        **count_by_dispatch(build_empty(*specs, classes, "meta", of_task)),
        "macs_fvcore": _fvcore_macs(build_empty(*specs, classes, "cpu", of_task).eval()),
    }


def count_by_dispatch(model: PromptedModel) -> dict[str, int]:
    """The same without fvcore's figure, which takes seconds.

    Args:
        model: on the meta device; it is merged afterwards.
    """
    model.backbone.use_fused_attention(False)
    model.backbone.skip_unused = False
    image, target = _image(model.backbone.shape, "meta"), model.task.example_targets(1, model.backbone.shape.image_size, "meta")
    step = _flops(lambda: model.train().training_loss(image, target)[0].backward())
    model.eval().requires_grad_(False)
    forward = _forward_flops(model, image)
    model.backbone.skip_unused = True
    model.merge()
    inference = _forward_flops(model, image)
    return {"flops_forward": forward, "flops_inference": inference, "macs_forward": forward // 2, "flops_train_step": step}


def count_plain(backbone: BackboneSpec) -> int:
    """Floating-point operations of the unprompted backbone alone, per image, without a classifier."""
    model = empty_backbone(backbone, "meta")
    model.use_fused_attention(False)
    return _forward_flops(model, _image(model.shape, "meta"))


def merges(model: PromptedModel) -> bool:
    """Whether the method has another form for inference."""
    return type(model.method).merge is not Method.merge


def _forward_flops(model: torch.nn.Module, image: torch.Tensor) -> int:
    with torch.no_grad():
        return _flops(lambda: model(image))


def _flops(call: Callable[[], object]) -> int:
    with FlopCounterMode(display=False) as counter:
        call()
    return int(counter.get_total_flops())


def _fvcore_macs(model: PromptedModel) -> int | None:
    """fvcore's count of a forward pass, with explicit attention, which it can see; None where it cannot trace the model."""
    model.backbone.use_fused_attention(False)
    model.backbone.skip_unused = False
    silenced = logging.getLogger("fvcore.nn.jit_analysis")
    level = silenced.level
    silenced.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # importing fvcore warns of what torch deprecates
            from fvcore.nn import FlopCountAnalysis

            counter = FlopCountAnalysis(model, _image(model.backbone.shape, "cpu"))
            return int(counter.unsupported_ops_warnings(False).uncalled_modules_warnings(False).total())
    except (RuntimeError, NotImplementedError):
        return None
    finally:
        silenced.setLevel(level)


def _image(shape: BackboneShape, device: str) -> torch.Tensor:
    return torch.zeros(1, shape.channels, shape.image_size, shape.image_size, device=device)
