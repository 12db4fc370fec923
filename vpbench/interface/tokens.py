"""The token sequence inside a vision transformer, and the only place that knows its layout."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from vpbench.interface.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Tokens:
    """A sequence ``[prefix | prompts | patches]``: class and register tokens, prompts, patch tokens.

    New prompts are held apart from the rest until somebody asks for the whole: a block that needs them as keys and values
    only does without a copy of the sequence, and prompts that all images share stay one tensor.

    Attributes:
        held: all tokens, (B, prefix + prompts + patches, D); without the prompts where these are held apart.
        prefix: number of class and register tokens at the front.
        prompts: number of prompt tokens behind them.
        apart: prompts that are not in ``held``, (N, D) for all images alike, or (B, N, D).
    """

    held: Tensor
    prefix: int
    prompts: int = 0
    apart: Tensor | None = None

    @cached_property
    def x(self) -> Tensor:
        """All tokens, (B, prefix + prompts + patches, D)."""
        if self.apart is None:
            return self.held
        return torch.cat([self.prefix_tokens, self.prompt_tokens, self.patch_tokens], dim=1)

    @property
    def rest(self) -> Tensor:
        """The sequence without its prompts, (B, prefix + patches, D)."""
        if self.apart is not None or not self.prompts:
            return self.held
        return torch.cat([self.prefix_tokens, self.patch_tokens], dim=1)

    @property
    def images(self) -> int:
        """Number of images B."""
        return len(self.held)

    @property
    def prefix_tokens(self) -> Tensor:
        """Class and register tokens, (B, prefix, D)."""
        return self.held[:, : self.prefix]

    @property
    def prompt_tokens(self) -> Tensor:
        """Prompt tokens, (B, N, D)."""
        if self.apart is None:
            return self.held[:, self.prefix : self.prefix + self.prompts]
        return self.apart.expand(self.images, -1, -1)

    @property
    def patch_tokens(self) -> Tensor:
        """Patch tokens, (B, M, D), row by row of the patch grid."""
        return self.held[:, self._before_patches :]

    @property
    def _before_patches(self) -> int:
        """Tokens before the patches in ``held``."""
        return self.prefix + (self.prompts if self.apart is None else 0)

    def with_values(self, x: Tensor) -> Tokens:
        """Other values in the same layout.

        Args:
            x: all tokens, (B, prefix + prompts + patches, D).
        """
        return Tokens(x, self.prefix, self.prompts)

    def with_prompts(self, prompts: Tensor) -> Tokens:
        """The sequence with ``prompts`` in place of the present ones (or inserted, if there are none).

        Args:
            prompts: shape (N, D) for all images alike, or (B, N, D).
        """
        return Tokens(self.rest, self.prefix, prompts.shape[-2], prompts.to(self.held.dtype))

    def drop_prompts(self) -> Tokens:
        """The sequence without prompts."""
        return Tokens(self.rest, self.prefix)

    def add_to_patches(self, values: Tensor, index: Tensor | None = None) -> Tokens:
        """The sequence with ``values`` added to patch tokens.

        Args:
            values: (M, D), one row per patch token; with ``index``, (k, D), one row per chosen token.
            index: (B, k), for each image the patch tokens (0 to M-1, distinct) that receive the rows of ``values``.
        """
        front, values = self._before_patches, values.to(self.held.dtype)
        if index is None:
            held = torch.cat([self.held[:, :front], self.patch_tokens + values], dim=1)
        else:
            where = (index + front).unsqueeze(-1).expand(-1, -1, self.held.shape[-1])
            held = self.held.scatter_add(1, where, values.expand(self.images, -1, -1))
        return Tokens(held, self.prefix, self.prompts, self.apart)
