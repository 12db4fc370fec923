"""Weights between those of a linear probe and of a fine-tuned model (WiSE-FT, Wortsman et al., CVPR 2022), without any training.

The paper mixes the weights of a zero-shot classifier and of the model that was fine-tuned from it, (1 - alpha) w_0 + alpha w_1,
in the backbone and in the classifier. A backbone without texts has no zero-shot classifier, so that here the start is the linear
probe: the frozen backbone with the head that the method ``linear`` has trained on the same data. The fine-tuned model may be any
whose method is part of the weights, as full and partial fine-tuning are, or merges into them exactly, as LoRA does.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from vpbench.core.errors import UnsupportedError
from vpbench.models.saved import TrainedModel

PROBE = "linear"
"""The method whose model is the start, at alpha = 0."""
_CLOSE = 1e-3  # of the largest logit: what merging may change, by rounding


def interpolated(probe: TrainedModel, tuned: TrainedModel, alphas: Sequence[float]) -> Iterator[tuple[float, TrainedModel]]:
    """The models at each alpha, one after the other in the same module: use each before asking for the next.

    Args:
        probe: the start, of the method ``linear``; it is changed in place.
        tuned: the end, on the same backbone and the same classes; it is merged.
        alphas: shares of the end, 0 ... 1. Weights at 0 and 1 are bit by bit those of ``probe`` and of ``tuned``.

    Raises:
        UnsupportedError: when the end is no plain backbone with a linear head, so that its weights cannot be mixed.
    """
    start = _weights(probe)
    end = _plain_weights(tuned, start)
    images = _made_up_images(probe)
    with torch.no_grad():
        expected = tuned.model.eval()(images)
        _set(probe, end)
        found = probe.model.eval()(images)
    if not torch.allclose(found, expected, rtol=0, atol=_CLOSE * float(expected.abs().max())):
        raise _not_plain(tuned)
    for alpha in alphas:
        _set(probe, {name: torch.lerp(start[name], end[name], alpha) for name in start})
        yield alpha, probe


def _weights(model: TrainedModel) -> dict[str, Tensor]:
    """A copy of the floating-point tensors of backbone and head, by name; those inside an opened attention by timm's."""
    parts = {"backbone.": model.model.backbone.timm_model, "head.": model.model.head}
    return {
        prefix + name.replace(".attn.inner.", ".attn."): tensor.detach().clone()
        for prefix, part in parts.items()
        for name, tensor in part.state_dict().items()
        if tensor.is_floating_point()
    }


def _plain_weights(tuned: TrainedModel, start: dict[str, Tensor]) -> dict[str, Tensor]:
    """Those of the end, merged; the same tensors as the start has."""
    tuned.model.merge()
    end = _weights(tuned)
    if {name: tensor.shape for name, tensor in end.items()} != {name: tensor.shape for name, tensor in start.items()}:
        raise _not_plain(tuned)
    return end


def _set(model: TrainedModel, values: dict[str, Tensor]) -> None:
    parts: dict[str, Any] = {"backbone.": model.model.backbone.timm_model, "head.": model.model.head}
    with torch.no_grad():
        for prefix, part in parts.items():
            for name, tensor in part.state_dict(keep_vars=True).items():
                if tensor.is_floating_point():
                    tensor.copy_(values[prefix + name.replace(".attn.inner.", ".attn.")])


def _made_up_images(model: TrainedModel) -> Tensor:
    shape = model.model.backbone.shape
    size = (2, shape.channels, shape.image_size, shape.image_size)
    return torch.randn(size, generator=torch.Generator().manual_seed(0)).to(next(model.model.parameters()).device)


def _not_plain(tuned: TrainedModel) -> UnsupportedError:
    method = tuned.description.method.label
    return UnsupportedError(
        f"WiSE-FT mixes weights, and {method} is more than a backbone's weights and a linear head, also when it is merged."
    )
