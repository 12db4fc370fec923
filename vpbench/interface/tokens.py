"""The token sequence inside a vision transformer, and the only place that knows its layout."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

from vpbench.interface.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Tokens:
    """A sequence ``[prefix | prompts | patches]``: class and register tokens, prompt tokens, patch tokens.

    Image tokens and prompt tokens are two tensors. A block that needs prompts as keys and values only works without a copy of
    the sequence, and prompts that all images share stay one tensor.

    Attributes:
        image_tokens: prefix and patch tokens, (B, prefix + M, D).
        prefix: number of class and register tokens.
        prompts: prompt tokens, (N, D) shared by all images, or (B, N, D); None for no prompts.
    """

    image_tokens: Tensor
    prefix: int
    prompts: Tensor | None = None

    @cached_property
    def x(self) -> Tensor:
        """All tokens, (B, prefix + N + M, D)."""
        if self.prompts is None:
            return self.image_tokens
        return torch.cat([self.prefix_tokens, self.prompt_tokens, self.patch_tokens], dim=1)

    @property
    def batch_size(self) -> int:
        """Number of images B."""
        return self.image_tokens.shape[0]  # len() of a tensor would fix the size in a traced program

    @property
    def num_prompts(self) -> int:
        """Number of prompt tokens N."""
        return 0 if self.prompts is None else self.prompts.shape[-2]

    @property
    def prefix_tokens(self) -> Tensor:
        """Class and register tokens, (B, prefix, D)."""
        return self.image_tokens[:, : self.prefix]

    @property
    def prompt_tokens(self) -> Tensor:
        """Prompt tokens, (B, N, D)."""
        if self.prompts is None:
            return self.image_tokens[:, :0]
        return self.prompts.expand(self.batch_size, -1, -1)

    @property
    def patch_tokens(self) -> Tensor:
        """Patch tokens, (B, M, D), row by row of the patch grid."""
        return self.image_tokens[:, self.prefix :]

    def with_values(self, x: Tensor) -> Tokens:
        """Other values in the same layout.

        Args:
            x: all tokens, (B, prefix + N + M, D).
        """
        if self.prompts is None:
            return Tokens(x, self.prefix)
        end = self.prefix + self.num_prompts
        image_tokens = torch.cat([x[:, : self.prefix], x[:, end:]], dim=1)
        tokens = Tokens(image_tokens, self.prefix, x[:, self.prefix : end])
        tokens.__dict__["x"] = x  # the joint sequence is there already
        return tokens

    def with_prompts(self, prompts: Tensor) -> Tokens:
        """The sequence with ``prompts`` in place of the present ones (or inserted, if there are none).

        Args:
            prompts: shape (N, D) for all images alike, or (B, N, D).
        """
        return replace(self, prompts=prompts.to(self.image_tokens.dtype))

    def add_to_patches(self, values: Tensor, index: Tensor | None = None) -> Tokens:
        """The sequence with ``values`` added to patch tokens.

        Args:
            values: (M, D), one row per patch token; with ``index``, (k, D), one row per chosen token.
            index: (B, k), for each image the patch tokens (0 to M-1, distinct) that receive the rows of ``values``.
        """
        values = values.to(self.image_tokens.dtype)
        if index is None:
            image_tokens = torch.cat([self.prefix_tokens, self.patch_tokens + values], dim=1)
        else:
            where = (index + self.prefix).unsqueeze(-1).expand(-1, -1, self.image_tokens.shape[-1])
            image_tokens = self.image_tokens.scatter_add(1, where, values.expand(self.batch_size, -1, -1))
        return Tokens(image_tokens, self.prefix, self.prompts)
