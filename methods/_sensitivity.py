"""SPT's choice of what to tune: by the sensitivity of every scalar of the backbone, within a budget."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vpbench.interface import BackboneShape, Site, torch

if TYPE_CHECKING:
    from torch import Tensor

STEP, STEPS = 20_000, 80  # the released sweep: the 20,000, 40,000 ... 1,580,000 most sensitive scalars
OPERATIONS: dict[str, tuple[Site, int, int, int]] = {
    "q": ("qkv", 0, 1, 1), "k": ("qkv", 1, 1, 1), "v": ("qkv", 2, 1, 1),
    "proj": ("proj", 0, 1, 1), "fc1": ("fc1", 0, 1, 4), "fc2": ("fc2", 0, 4, 1),
}  # fmt: skip
"""Site of a matrix, which part of its output, and its widths in and out in token widths."""


@dataclass(frozen=True)
class Tensors:
    """What can be tuned, in a fixed order.

    Attributes:
        matrices: (block, operation, width in, width out).
        vectors: (block or None, site, part of the site's output, ``weight`` or ``bias``, length).
    """

    matrices: tuple[tuple[int, str, int, int], ...]
    vectors: tuple[tuple[int | None, Site, int, str, int], ...]

    @classmethod
    def of(cls, shape: BackboneShape) -> Tensors:
        """Of all blocks and the last norm of a backbone."""
        matrices, vectors = [], []
        norms: list[tuple[int | None, Site]] = []
        for block in range(shape.depth):
            width = shape.width_of(block)
            for name, (site, part, size_in, size_out) in OPERATIONS.items():
                matrices.append((block, name, size_in * width, size_out * width))
                vectors.append((block, site, part, "bias", size_out * width))
            norms += [(block, "norm1"), (block, "norm2")]
        for place, site in (*norms, (None, "norm")):
            width = shape.width_of(shape.depth - 1 if place is None else place)
            vectors += [(place, site, 0, "weight", width), (place, site, 0, "bias", width)]  # type: ignore[list-item]
        return cls(tuple(matrices), tuple(vectors))

    @property
    def sizes(self) -> list[int]:
        """Scalars of each matrix, then of each vector."""
        return [rows * columns for *_, rows, columns in self.matrices] + [each[-1] for each in self.vectors]


@dataclass(frozen=True)
class Choice:
    """What is tuned.

    Attributes:
        modules: for each matrix, whether it gets a module.
        entries: for each matrix, how many single entries are tuned.
        vectors: for each vector, how many entries are tuned; its length where it is tuned as a whole.
        places: where the single entries are: for each matrix its places (row times width in, plus column), then for each vector
            that is not tuned as a whole, (sum of these counts,).
    """

    modules: list[bool]
    entries: list[int]
    vectors: list[int]
    places: Tensor


def choose(
    sensitivity: Sequence[Tensor], tensors: Tensors, modules: Sequence[int], budget: int, alpha: float, beta: float
) -> Choice:
    """The choice that comes closest to the budget from below.

    More and more of the most sensitive scalars of all tensors are kept. A matrix with at least size / alpha of them, size that of
    its module, gets the module instead; a vector of which 1 / beta is kept is tuned as a whole.

    Args:
        sensitivity: of each scalar, a tensor for each matrix and each vector.
        tensors: what can be tuned.
        modules: size of each matrix's module.
        budget: of tuned scalars.
    """
    sizes = tensors.sizes
    flat = torch.cat([each.flatten() for each in sensitivity])
    step = max(1, min(STEP, budget // 20))
    ranked = flat.topk(min(len(flat), step * (STEPS - 1))).indices
    ends = torch.tensor(sizes, device=flat.device).cumsum(0)
    owners = torch.bucketize(ranked, ends, right=True)
    limits = [math.ceil(size / alpha) for size in modules] + [math.ceil(each[-1] / beta) for each in tensors.vectors]
    whole = [*modules, *(each[-1] for each in tensors.vectors)]
    best, kept = -1, 0
    for count in range(step, len(ranked) + step, step):
        counts = torch.bincount(owners[:count], minlength=len(sizes)).tolist()
        total = sum(size if found >= limit else found for found, limit, size in zip(counts, limits, whole))
        if best <= total <= budget:
            best, kept = total, min(count, len(ranked))
    owners, ranked = owners[:kept].cpu(), ranked[:kept].cpu()
    counts = torch.bincount(owners, minlength=len(sizes)).tolist()
    is_whole = [found >= limit for found, limit in zip(counts, limits)]
    starts = (ends.cpu() - torch.tensor(sizes)).tolist()
    picked = [(ranked[owners == index] - starts[index]).sort().values for index in range(len(sizes)) if not is_whole[index]]
    matrices = len(tensors.matrices)
    return Choice(
        modules=is_whole[:matrices],
        entries=[0 if each else found for each, found in zip(is_whole[:matrices], counts)],
        vectors=[size if each else found for each, found, size in zip(is_whole, counts, whole)][matrices:],
        places=torch.cat(picked) if picked else torch.zeros(0, dtype=torch.long),
    )
