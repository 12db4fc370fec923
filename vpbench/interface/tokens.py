"""The token sequence inside a vision transformer, and the only place that knows its layout."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from vpbench.interface.later import torch

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Tokens:
    """A sequence ``[prefix | prompts | patches]``: class and register tokens, prompts, patch tokens.

    Attributes:
        x: all tokens, shape (B, prefix + prompts + patches, D).
        prefix: number of class and register tokens at the front.
        prompts: number of prompt tokens behind them.
    """

    x: Tensor
    prefix: int
    prompts: int = 0

    @property
    def prefix_tokens(self) -> Tensor:
        """Class and register tokens, (B, prefix, D)."""
        return self.x[:, : self.prefix]

    @property
    def prompt_tokens(self) -> Tensor:
        """Prompt tokens, (B, N, D)."""
        return self.x[:, self.prefix : self.prefix + self.prompts]

    @property
    def patch_tokens(self) -> Tensor:
        """Patch tokens, (B, M, D), row by row of the patch grid."""
        return self.x[:, self.prefix + self.prompts :]

    def with_prompts(self, prompts: Tensor) -> Tokens:
        """The sequence with ``prompts`` in place of the present ones (or inserted, if there are none).

        Args:
            prompts: shape (N, D) for all images alike, or (B, N, D).
        """
        if prompts.ndim == 2:
            prompts = prompts.expand(len(self.x), -1, -1)
        x = torch.cat([self.prefix_tokens, prompts.to(self.x.dtype), self.patch_tokens], dim=1)
        return Tokens(x, self.prefix, prompts.shape[1])

    def drop_prompts(self) -> Tokens:
        """The sequence without prompts."""
        return Tokens(torch.cat([self.prefix_tokens, self.patch_tokens], dim=1), self.prefix) if self.prompts else self

    def add_to_patches(self, values: Tensor, index: Tensor | None = None) -> Tokens:
        """The sequence with ``values`` added to patch tokens.

        Args:
            values: (M, D), one row per patch token; with ``index``, (k, D), one row per chosen token.
            index: (B, k), for each image the patch tokens (0 to M-1, distinct) that receive the rows of ``values``.
        """
        front = self.prefix + self.prompts
        if index is None:
            patches = self.patch_tokens + values.to(self.x.dtype)
            return replace(self, x=torch.cat([self.x[:, :front], patches], dim=1))
        where = (index + front).unsqueeze(-1).expand(-1, -1, self.x.shape[-1])
        return replace(self, x=self.x.scatter_add(1, where, values.to(self.x.dtype).expand(len(self.x), -1, -1)))
