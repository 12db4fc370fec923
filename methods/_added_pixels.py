"""What is added to every image is a shift of the patch tokens, which the position embeddings can take up."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vpbench.core.errors import UnsupportedError
from vpbench.interface import Scope, torch

if TYPE_CHECKING:
    from torch import Tensor


def take_into_positions(scope: Scope, prompt: Tensor) -> bool:
    """Merge a prompt into the position embeddings: conv(x + prompt) = conv(x) + (conv(prompt) - conv(0)).

    Args:
        scope: of the method.
        prompt: what is added to normalised images, (1, C, S, S).

    Returns:
        Whether it is merged: only where there are absolute position embeddings behind a linear patch embedding.
    """
    embed = scope.module("patch_embed")
    with torch.no_grad():
        delta = (embed(prompt) - embed(torch.zeros_like(prompt)))[0]
    try:
        scope.fold("patch_embed")  # raises where patches are normalised, so that the embedding is not linear
        scope.fold_positions(delta)
    except UnsupportedError:
        return False
    return True
