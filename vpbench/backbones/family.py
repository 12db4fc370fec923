"""timm's architectures: building them, which adapter drives which, and timm's own reading of checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import timm
import torch
from timm.models import SwinTransformer, VisionTransformer
from timm.models import eva as timm_eva
from timm.models import swin_transformer as timm_swin
from timm.models import vision_transformer as timm_vit
from timm.models.eva import Eva
from torch import Tensor, nn

from vpbench.backbones.base import Backbone
from vpbench.backbones.eva import EvaAdapter
from vpbench.backbones.vit import ViTAdapter
from vpbench.core.errors import UnsupportedError, UsageError
from vpbench.spec.run_spec import PosResample

SUPPORTED = "a ViT (vit_*, deit*, eva*) or a Swin Transformer (swin_*)"
_RELATIVE = "its attention adds a learned bias for every pair of positions in the image, and a prompt has no position"
REASONS = {"Beit": _RELATIVE, "VisionTransformerRelPos": _RELATIVE, "VisionTransformerSAM": _RELATIVE}
"""Why a family that looks like a ViT has no adapter; by timm's class. BEiT, BEiT v2 and data2vec are ``Beit``."""


def create(
    name: str, arguments: dict[str, Any] | None = None, image_size: int | None = None, patch_size: int | None = None
) -> Any:
    """A timm model by its architecture's name, without classifier and with timm's random values.

    Args:
        arguments: of ``timm.create_model``.
        image_size: pixels; None for the architecture's own.
        patch_size: pixels; None for the architecture's own.

    Raises:
        UsageError: when it cannot be built in these sizes.
    """
    sizes = {key: value for key, value in (("img_size", image_size), ("patch_size", patch_size)) if value is not None}
    try:
        return timm.create_model(name, num_classes=0, **{**(arguments or {}), **sizes})
    except (TypeError, AssertionError, ValueError) as error:
        given = f"{image_size} px and patches of {patch_size} px"
        raise UsageError(f"{name} cannot be built for {given}: {error}") from error


def adapter_for(model: nn.Module, weights_sha256: str | None = None, **readout: Any) -> Backbone:
    """The adapter of a timm model's family.

    Args:
        model: with ``num_classes=0``.
        weights_sha256: of the file that its weights came from, None for random ones.
        readout: what the family's adapter takes beside these, e.g. ``pool_prompts=True``.

    Raises:
        UnsupportedError: for a family that has no adapter, or a member of one that cannot carry prompts; in one line.
    """
    if isinstance(model, SwinTransformer):
        from vpbench.backbones.swin import SwinAdapter

        return SwinAdapter(model, weights_sha256, **readout)
    if isinstance(model, Eva):
        return EvaAdapter(model, weights_sha256, **readout)
    if isinstance(model, VisionTransformer):
        return ViTAdapter(model, weights_sha256, **readout)
    name = type(model).__name__
    reason = f" ({REASONS[name]})" if name in REASONS else ""
    raise UnsupportedError(f"{name} cannot carry prompts{reason}: choose {SUPPORTED}.")


def timm_filter(
    model: nn.Module, pos_resample: PosResample = "bicubic"
) -> Callable[[dict[str, Tensor], nn.Module], dict[str, Tensor]]:
    """timm's function that renames a checkpoint's tensors and resamples them to a model's sizes.

    Args:
        pos_resample: how position embeddings, and a patch embedding of another size, are resampled; a Swin has no such positions.
    """
    if isinstance(model, SwinTransformer):
        return _swin_filter
    how: dict[str, Any] = {} if pos_resample == "bicubic" else {"interpolation": pos_resample, "antialias": False}
    if isinstance(model, Eva):
        return partial(timm_eva.checkpoint_filter_fn, **how)
    return partial(timm_vit.checkpoint_filter_fn, adapt_layer_scale=True, **how)  # gamma_1 and gamma_2 of DeiT III's files


def _swin_filter(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """timm's own filter. Older versions recognise timm's way of counting stages by the classifier's name, which is added.

    The official files merge patches at the end of a stage, timm at the beginning of the next.
    """
    if "layers.0.downsample.reduction.weight" not in state:
        state = {"head.fc.weight": torch.empty(0), **state}
    found: dict[str, Tensor] = timm_swin.checkpoint_filter_fn(state, model)
    return found
