"""Inside a trained model: its prompts, its attention, and the image regions that explain a decision.

Everything is computed in float32 and evaluation mode, whatever precision the model was trained in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from vpbench.backbones.base import Backbone
from vpbench.core.errors import UnsupportedError
from vpbench.interface import Scope, Tokens
from vpbench.models.prompted import PromptedModel

Array = NDArray[np.float32]


@dataclass(frozen=True)
class BlockAttention:
    """Attention in one block.

    Attributes:
        patches: weight of each patch token, (B, grid, grid): from the class token, mean over heads; where there is no class
            token, what the token receives from the patch tokens of its window.
        prompts: share of the class token's attention that goes to prompts, (B,); None where there is no class token.
    """

    patches: Array
    prompts: Array | None


def prompted_pixels(model: PromptedModel, images: Tensor) -> Tensor:
    """The normalised images (B, C, S, S) with the method's prompt on their pixels; the images themselves where it has none."""
    with torch.no_grad():
        return model.method.pixels(images, model.context(images))


def first_prompts(model: PromptedModel, images: Tensor) -> Tensor:
    """The prompt tokens that enter block 0, (B, N, D); N is 0 for a method without any."""
    kept: list[Tensor] = []

    def look(block: int, tokens: Tokens) -> Tokens:
        if block == 0:
            kept.append(tokens.prompt_tokens.detach())
        return tokens

    with torch.no_grad(), _before_blocks(model.backbone, look):
        model(images)
    return kept[-1]


def attention_by_block(model: PromptedModel | Backbone, images: Tensor) -> list[BlockAttention]:
    """Attention of the last forward pass in every block, for a prompted model or for a plain backbone.

    Raises:
        UnsupportedError: when the method replaces the attention by its own, or the backbone shows none.
    """
    backbone: Backbone = model.backbone if isinstance(model, PromptedModel) else model
    found: dict[int, BlockAttention] = {}
    scope = Scope(backbone)
    by_class_token = backbone.shape.prefix > 0
    watch: Any = scope.watch_class_attention() if by_class_token else scope.watch_received_attention()

    def look(block: int, tokens: Tokens) -> None:
        weights = watch(block)
        side = backbone.shape.stage_of(block).grid
        if not by_class_token:
            found[block] = BlockAttention(_array(weights).reshape(-1, side, side), None)
            return
        mean = weights.mean(1)
        front, behind = tokens.prefix, tokens.prefix + tokens.num_prompts
        found[block] = BlockAttention(_array(mean[:, behind:]).reshape(-1, side, side), _array(mean[:, front:behind].sum(1)))

    try:
        with torch.no_grad(), _after_blocks(backbone, look):
            model(images)
    finally:
        scope.undo()
    return [found[block] for block in range(backbone.shape.depth)]


def grad_cam(model: PromptedModel, images: Tensor, targets: Tensor) -> Array:
    """Grad-CAM (Selvaraju et al., ICCV 2017) on the patch tokens that enter the last block, each map scaled to 0 ... 1.

    A token's weight is the sum over its features, each times the mean gradient of the target's logit over all patch
    tokens; negative weights become 0. Behind the last block a class token is all that a classifier reads, so that patch
    tokens have no gradient there.

    Args:
        images: normalised, (B, C, S, S).
        targets: a class per image, (B,).

    Returns:
        (B, grid, grid); all zeros for an image where nothing speaks for the class.
    """
    last = model.backbone.shape.depth - 1
    kept: list[Tokens] = []

    def look(block: int, tokens: Tokens) -> Tokens:
        if block != last:
            return tokens
        kept.append(tokens.with_values(tokens.x.detach().requires_grad_(True)))
        return kept[-1]

    with torch.enable_grad(), _before_blocks(model.backbone, look):
        logits = model(images)
    tokens = kept[-1]
    (gradient,) = torch.autograd.grad(logits.gather(1, targets[:, None]).sum(), tokens.x)
    weights = tokens.with_values(gradient).patch_tokens.mean(1, keepdim=True)
    maps = F.relu((tokens.patch_tokens.detach() * weights).sum(-1))
    maps = maps / maps.amax(1, keepdim=True).clamp(min=torch.finfo(maps.dtype).tiny)
    side = model.backbone.shape.stage_of(last).grid
    return _array(maps).reshape(-1, side, side)


def _array(tensor: Tensor) -> Array:
    found: Array = tensor.detach().float().cpu().numpy()
    return found


@contextmanager
def _before_blocks(backbone: Backbone, look: Callable[[int, Tokens], Tokens]) -> Iterator[None]:
    """Let ``look`` see, and replace, the sequence that enters every block."""
    original = backbone.run_block
    with _instead(backbone, lambda block, tokens: original(block, look(block, tokens))):
        yield


@contextmanager
def _after_blocks(backbone: Backbone, look: Callable[[int, Tokens], None]) -> Iterator[None]:
    """Let ``look`` see the sequence that leaves every block."""
    original = backbone.run_block

    def run(block: int, tokens: Tokens) -> Tokens:
        left = original(block, tokens)
        look(block, left)
        return left

    with _instead(backbone, run):
        yield


@contextmanager
def _instead(backbone: Backbone, run: Callable[[int, Tokens], Tokens]) -> Iterator[None]:
    # Attributes of the object hide the class's; a subclass would have to know every family. All outputs are computed.
    hidden = {"run_block": run, "skip_unused": False}
    vars(backbone).update(hidden)
    try:
        yield
    finally:
        for name in hidden:
            del vars(backbone)[name]


def is_readable(model: PromptedModel) -> bool:
    """Whether :func:`attention_by_block` works on a model."""
    scope = Scope(model.backbone)
    try:
        scope.watch_class_attention() if model.backbone.shape.prefix else scope.watch_received_attention()
    except UnsupportedError:
        return False
    finally:
        scope.undo()
    return True
