"""Floating-point operations of a model, the same number on every machine.

What is counted is each matrix product and convolution that a model asks for, its prompts, prompters and per-image networks
included, for one image: of the method as papers describe it, where every token goes through every block, and for
``flops_inference`` of what is executed, after ``merge()`` and without what nobody reads. Everything happens on the meta device
with explicit attention, so that neither a machine nor a kernel has a part in it. Normalisation, softmax, activations and sums
are left out, about a hundredth of a ViT, and so are the decompositions of ViaPT's training. A multiply-add counts 2 in
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
from vpbench.models.build import backbone_shell, build_shell
from vpbench.models.prompted import PromptedModel
from vpbench.spec.run_spec import BackboneSpec, MethodSpec


def count_operations(method: MethodSpec, backbone: BackboneSpec, classes: int) -> dict[str, int | None]:
    """``flops_forward``, ``flops_inference``, ``macs_forward``, ``flops_train_step`` and ``macs_fvcore``, all per image."""
    return dict(_counted(method.model_dump_json(), backbone.model_dump_json(), classes))


@cache
def _counted(method: str, backbone: str, classes: int) -> Mapping[str, int | None]:
    """Of specifications as JSON. Kept, since seeds and data sets with as many classes share it, and it takes a second."""
    specs = MethodSpec.model_validate_json(method), BackboneSpec.model_validate_json(backbone)
    return {
        **count_by_dispatch(build_shell(*specs, classes, "meta")),
        "macs_fvcore": _fvcore_macs(build_shell(*specs, classes, "cpu").eval()),
    }


def count_by_dispatch(shell: PromptedModel) -> dict[str, int]:
    """The same without fvcore's figure, which takes seconds.

    Args:
        shell: on the meta device; it is merged afterwards.
    """
    shell.backbone.use_fused_attention(False)
    shell.backbone.lean = False
    image, label = _image(shell.backbone.shape, "meta"), torch.zeros(1, dtype=torch.long, device="meta")
    step = _flops(lambda: shell.train().training_loss(image, label)[0].backward())
    shell.eval().requires_grad_(False)
    forward = _forward_flops(shell, image)
    shell.backbone.lean = True
    shell.method.merge()
    inference = _forward_flops(shell, image)
    return {"flops_forward": forward, "flops_inference": inference, "macs_forward": forward // 2, "flops_train_step": step}


def count_plain(backbone: BackboneSpec) -> int:
    """Floating-point operations of the unprompted backbone alone, per image, without a classifier."""
    shell = backbone_shell(backbone, "meta")
    shell.use_fused_attention(False)
    return _forward_flops(shell, _image(shell.shape, "meta"))


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


def _fvcore_macs(shell: PromptedModel) -> int | None:
    """fvcore's count of a forward pass, with explicit attention, which it can see; None where it cannot trace the model."""
    shell.backbone.use_fused_attention(False)
    shell.backbone.lean = False
    silenced = logging.getLogger("fvcore.nn.jit_analysis")
    level = silenced.level
    silenced.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # importing fvcore warns of what torch deprecates
            from fvcore.nn import FlopCountAnalysis

            counter = FlopCountAnalysis(shell, _image(shell.backbone.shape, "cpu"))
            return int(counter.unsupported_ops_warnings(False).uncalled_modules_warnings(False).total())
    except (RuntimeError, NotImplementedError):
        return None
    finally:
        silenced.setLevel(level)


def _image(shape: BackboneShape, device: str) -> torch.Tensor:
    return torch.zeros(1, shape.channels, shape.image_size, shape.image_size, device=device)
