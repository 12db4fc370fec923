"""What a method may know of a backbone."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

ALL_FAMILIES = frozenset({"vit", "swin"})
"""Every family of backbones that has an adapter."""


Linears = tuple[tuple[str, tuple[int, int]], ...]
"""Pairs of a site and its widths, (in, out)."""


@dataclass(frozen=True)
class Stage:
    """Consecutive blocks with one token width and one patch grid.

    Attributes:
        first: its first block.
        depth: number of blocks.
        width: token width D.
        heads: attention heads h; the width of one is D / h.
        grid: patch tokens along one side.
        linears: by site, input and output width of the linear layers of its blocks; see :meth:`BackboneShape.linear_of`.
    """

    first: int
    depth: int
    width: int
    heads: int
    grid: int
    linears: Linears = ()

    @property
    def patches(self) -> int:
        """Number of patch tokens M."""
        return self.grid**2

    @property
    def head_width(self) -> int:
        return self.width // self.heads


@dataclass(frozen=True)
class BackboneShape:
    """Sizes of a frozen backbone; methods create their parameters from it.

    Attributes:
        family: ``"vit"`` or ``"swin"``; the family's adapter says how prompts meet its blocks.
        image_size: side of the square input, pixels.
        patch_size: side of a patch, pixels.
        width: token width D, that of the first stage.
        depth: number of blocks L, of all stages.
        heads: attention heads h, those of the first stage.
        prefix: number of class and register tokens.
        channels: of the input image.
        stages: where width and grid change on the way; left out, the one stage that a ViT has.
        source_classes: outputs of the classifier that the backbone was pretrained with; 0 where the method did not ask for it,
            see ``Method.needs_source_classifier``.
        mean: by which images are normalised, (pixel - mean) / std with pixels in 0 ... 1, for methods that work on pixels.
        std: the same.
    """

    family: str
    image_size: int
    patch_size: int
    width: int
    depth: int
    heads: int
    prefix: int
    channels: int = 3
    stages: tuple[Stage, ...] = ()
    source_classes: int = 0
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.5, 0.5, 0.5)

    def __post_init__(self) -> None:
        if not self.stages:
            object.__setattr__(self, "stages", (Stage(0, self.depth, self.width, self.heads, self.grid),))

    @property
    def grid(self) -> int:
        """Patches along one side of the image."""
        return self.image_size // self.patch_size

    @property
    def patches(self) -> int:
        """Number of patch tokens M that enter block 0."""
        return self.grid**2

    @property
    def head_width(self) -> int:
        return self.width // self.heads

    @property
    def prompt_bound(self) -> float:
        """v of the prompts' initial U(-v, v), sqrt(6 / (3 p^2 + D)): KMnP/vpt src/models/vit_prompt/vit.py.

        Its Swin takes the first stage's width for the prompts of all stages.
        """
        return math.sqrt(6 / (self.channels * self.patch_size**2 + self.width))

    def resized(self, width: int) -> BackboneShape:
        """The same shape with another token width, for prompts that are projected to D later."""
        return replace(self, width=width, stages=())

    def stage_of(self, block: int) -> Stage:
        """The stage that ``block`` (0 to L-1) belongs to."""
        return next(stage for stage in self.stages if block < stage.first + stage.depth)

    def width_of(self, block: int) -> int:
        """Width of the tokens that enter and leave ``block``."""
        return self.stage_of(block).width

    def linear_of(self, site: str, block: int) -> tuple[int, int]:
        """Input and output width of a linear layer of ``block``: ``qkv``, ``proj``, ``fc1`` or ``fc2``.

        Gated MLPs have other widths than 4 D. Of a layer that the backbone does not have, the widths of a plain ViT.
        """
        stage = self.stage_of(block)
        width = stage.width
        plain = {"qkv": (width, 3 * width), "proj": (width, width), "fc1": (width, 4 * width), "fc2": (4 * width, width)}
        return dict(stage.linears).get(site, plain[site])

    def starts_stage(self, block: int) -> bool:
        """Whether width and grid change before ``block``."""
        return block > 0 and self.stage_of(block).first == block
