"""What a method may know of a backbone."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class BackboneShape:
    """Sizes of a frozen backbone; methods create their parameters from it.

    Attributes:
        family: ``"vit"``; the family's adapter says how prompts meet its blocks.
        image_size: side of the square input, pixels.
        patch_size: side of a patch, pixels.
        width: token width D.
        depth: number of blocks L.
        heads: attention heads h; the width of one is D / h.
        prefix: number of class and register tokens.
        channels: of the input image.
    """

    family: str
    image_size: int
    patch_size: int
    width: int
    depth: int
    heads: int
    prefix: int
    channels: int = 3

    @property
    def grid(self) -> int:
        """Patches along one side of the image."""
        return self.image_size // self.patch_size

    @property
    def patches(self) -> int:
        """Number of patch tokens M."""
        return self.grid**2

    @property
    def head_width(self) -> int:
        return self.width // self.heads

    @property
    def prompt_bound(self) -> float:
        """v of the prompts' initial U(-v, v), sqrt(6 / (3 p^2 + D)): KMnP/vpt src/models/vit_prompt/vit.py."""
        return math.sqrt(6 / (self.channels * self.patch_size**2 + self.width))

    def resized(self, width: int) -> BackboneShape:
        """The same shape with another token width, for prompts that are projected to D later."""
        return replace(self, width=width)
