"""Floating-point operations of a model, the same number on every machine.

They are counted on the meta device, where no attention kernel hides its operations from the counter, and in the form that
papers describe: every token goes through every block, also where vpbench leaves out what nobody reads. fvcore's figure
stands beside it: multiply-adds, which papers often print as FLOPs.
"""

from __future__ import annotations

import logging
import warnings

import torch
from torch.utils.flop_counter import FlopCounterMode

from vpbench.build import build_shell
from vpbench.execution.spec import BackboneSpec, MethodSpec
from vpbench.model import PromptedModel


def count_operations(method: MethodSpec, backbone: BackboneSpec, classes: int) -> dict[str, int | None]:
    """``flops_forward``, ``flops_train_step`` (2 per multiply-add) and ``macs_fvcore``, all per image."""
    shell = build_shell(method, backbone, classes, "meta")
    shell.backbone.lean = False
    image, label = _image(shell, "meta"), torch.zeros(1, dtype=torch.long, device="meta")
    step = FlopCounterMode(display=False)
    with step:
        shell.training_loss(image, label)[0].backward()
    shell.eval()
    forward = FlopCounterMode(display=False)
    with forward, torch.no_grad():
        shell(image)
    return {
        "flops_forward": forward.get_total_flops(),
        "flops_train_step": step.get_total_flops(),
        "macs_fvcore": _fvcore_macs(build_shell(method, backbone, classes, "cpu").eval()),
    }


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

            counter = FlopCountAnalysis(shell, _image(shell, "cpu"))
            return int(counter.unsupported_ops_warnings(False).uncalled_modules_warnings(False).total())
    except (RuntimeError, NotImplementedError):
        return None
    finally:
        silenced.setLevel(level)


def _image(shell: PromptedModel, device: str) -> torch.Tensor:
    shape = shell.backbone.shape
    return torch.zeros(1, shape.channels, shape.image_size, shape.image_size, device=device)
