"""Single entries of frozen weights: their gradients, from what goes through a layer, and updates of a chosen few.

No weight matrix needs a gradient of its own for either: a layer's input and the gradient of its output are all it takes, and an
update of n entries costs n multiply-adds per token instead of a second matrix product.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from functools import cache
from typing import TYPE_CHECKING, Any

from vpbench.interface import F, Session, torch

if TYPE_CHECKING:
    from torch import Tensor

POOL = 1024  # images among which batches are mixed


class SiteGradients:
    """Gradients of a loss with respect to the frozen parameters of linear layers and norms, summed over backward passes.

    Attributes:
        sums: by key, float32: ``(*key, "weight")`` (out, in) of a linear layer, (D,) of a norm, and ``(*key, "bias")``.
        squared: add up squares of each batch's gradients, see :meth:`end_batch`, instead of the gradients.
    """

    def __init__(self, squared: bool = False) -> None:
        self.sums: dict[Hashable, Tensor] = {}
        self.squared = squared
        self._batch: dict[Hashable, Tensor] = {}

    def watch_linear(self, key: tuple[Hashable, ...], x: Tensor, y: Tensor) -> Tensor:
        """y, whose gradient will be observed.

        Args:
            key: of the layer.
            x: what goes in, (..., in).
            y: what comes out, (..., out).
        """
        x = x.detach()

        def add(gradient: Tensor) -> None:
            rows, columns = gradient.flatten(0, -2).float(), x.flatten(0, -2).float()
            self._add((*key, "weight"), rows.T @ columns)
            self._add((*key, "bias"), rows.sum(0))

        return _observed(y, add)

    def watch_norm(self, key: tuple[Hashable, ...], normed: Tensor, y: Tensor) -> Tensor:
        """The same for a norm's output y; ``normed`` is what its weight is multiplied with."""
        normed = normed.detach()

        def add(gradient: Tensor) -> None:
            rows = gradient.flatten(0, -2).float()
            self._add((*key, "weight"), (rows * normed.flatten(0, -2).float()).sum(0))
            self._add((*key, "bias"), rows.sum(0))

        return _observed(y, add)

    def end_batch(self) -> None:
        """Call after every backward pass."""
        for key, gradient in self._batch.items():
            found = gradient.square_() if self.squared else gradient
            self.sums[key] = self.sums[key].add_(found) if key in self.sums else found
        self._batch = {}

    def _add(self, key: Hashable, gradient: Tensor) -> None:
        """A layer may be called several times in a pass."""
        self._batch[key] = self._batch[key].add_(gradient) if key in self._batch else gradient


def _observed(y: Tensor, add: Any) -> Tensor:
    if not y.requires_grad:
        y = y.detach().requires_grad_()
    y.register_hook(add)
    return y


def sparse_linear(x: Tensor, columns: Tensor, values: Tensor, width: int, rows: Tensor | None = None) -> Tensor:
    """x @ W.T for a W that has few entries, (..., width).

    Args:
        x: (..., in).
        columns: (k, n), column of each entry.
        values: (k, n), the entries.
        width: number of rows of W.
        rows: (n,), row of each of the n entries; None for rows 0 to n - 1, each with k entries.
    """
    found: Tensor = _function().apply(x, columns, values, width, rows)
    return found


def dense(columns: Tensor, values: Tensor, shape: tuple[int, int], rows: Tensor | None = None) -> Tensor:
    """W of :func:`sparse_linear` as a matrix."""
    rows = torch.arange(values.shape[1], device=values.device) if rows is None else rows
    index = (rows.expand_as(columns).flatten().long(), columns.flatten().long())
    return values.new_zeros(shape).index_put(index, values.flatten(), accumulate=True)


@cache
def _function() -> Any:
    """The autograd function; made at its first use, so that reading a configuration imports no torch."""

    class SparseLinear(torch.autograd.Function):
        """Saves its input alone; plain indexing would save a copy for every entry."""

        @staticmethod
        def forward(ctx: Any, x: Tensor, columns: Tensor, values: Tensor, width: int, rows: Tensor | None) -> Tensor:
            ctx.save_for_backward(x, columns, values, rows)
            total = sum(x.index_select(-1, at) * factor.to(x.dtype) for at, factor in zip(columns, values))
            found: Tensor = total if isinstance(total, torch.Tensor) else x.new_zeros(*x.shape[:-1], columns.shape[1])
            return found if rows is None else found.new_zeros(*x.shape[:-1], width).index_add(-1, rows, found)

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> Any:  # type: ignore[override]
            x, columns, values, rows = ctx.saved_tensors
            at_rows = gradient if rows is None else gradient.index_select(-1, rows)
            to_values, to_x = [], torch.zeros_like(x) if ctx.needs_input_grad[0] else None
            for at, factor in zip(columns, values):
                to_values.append((at_rows * x.index_select(-1, at)).flatten(0, -2).float().sum(0).to(values.dtype))
                if to_x is not None:
                    to_x.index_add_(-1, at, (at_rows * factor.to(at_rows.dtype)).to(to_x.dtype))
            return to_x, None, torch.stack(to_values) if to_values else None, None, None

    return SparseLinear


def patches_of(images: Tensor, size: int) -> Tensor:
    """Pixels of each patch, (B, M, C p p), in the order of a patch embedding's weight."""
    return F.unfold(images, size, stride=size).mT


def mixed_batches(session: Session) -> Iterator[tuple[Tensor, Tensor]]:
    """The training images once, without augmentation, in batches that mix classes even where the data is sorted by class.

    Images are drawn from a pool of up to ``POOL``, by the global random stream.
    """
    pool: list[tuple[Tensor, Tensor]] = []
    size = 0
    for images, labels in session.training_batches():
        size = size or len(images)
        pool.append((images, labels))
        if sum(len(each) for _, each in pool) >= POOL:
            images, labels = _shuffled(pool)
            yield images[:size], labels[:size]
            pool = [(images[size:], labels[size:])]
    if pool:
        images, labels = _shuffled(pool)
        yield from zip(images.split(size), labels.split(size))


def _shuffled(pool: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    images, labels = (torch.cat(parts) for parts in zip(*pool))
    order = torch.randperm(len(labels)).to(labels.device)
    return images[order], labels[order]
