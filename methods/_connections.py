"""Where ViaPT carries prompt outputs on from block to block, and the bases that reduce them there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from vpbench.core.errors import UsageError
from vpbench.interface import Stage, nn, torch
from vpbench.methods._pca import Basis, axes_of_covariance, complement, guarded, principal_axes, seeded_normal, seeded_order

if TYPE_CHECKING:
    from torch import Tensor

BasisMode = Literal["running", "batch", "sample", "fixed", "random_proj", "random_coord", "learned"]


@dataclass(frozen=True)
class BasisOptions:
    """What ViaPT's options say about the bases.

    Attributes:
        m: columns of a basis, from 0 to the token width.
        mode: the rows that it is fitted to, or what it is instead.
        batch_in_evaluation: whether mode batch fits it to the batch in evaluation too.
        detached: whether no gradient goes through it.
        with_complement: whether its complement is needed, too.
        needs_rank: whether rows that span fewer than ``m`` coordinates are an error.
        seed: of random initial values, plus the index of the connection.
    """

    m: int
    mode: BasisMode
    batch_in_evaluation: bool
    detached: bool
    with_complement: bool
    needs_rank: bool
    seed: int


@dataclass(frozen=True)
class Connections:
    """Successive connections of one token width D: where their tensors are, and what is done with their bases.

    What changes in training is in the module or, since a checkpoint saves that, in attributes of the method; nothing is here.

    Attributes:
        module: holds the learned values ``partials`` (connections or 1, n, D - m) and what ``build_bases`` creates.
        indices: of these connections among all.
        width: token width D.
        options: of the bases.
    """

    module: Any
    indices: range
    width: int
    options: BasisOptions

    @property
    def projects(self) -> bool:
        """Whether outputs are reduced here: with m = 0 nothing is carried on, and with m = D everything."""
        return 0 < self.options.m < self.width and len(self.indices) > 0

    def build_bases(self) -> None:
        """Creates ``mean`` (connections, D), ``basis`` (connections, D, m), its complement ``rest`` where that is needed, and
        the sums for the next basis, which are not saved; as far as the mode keeps a basis at all."""
        options, own, count = self.options, self.module, len(self.indices)
        if not self.projects or options.mode == "sample" or (options.mode == "batch" and options.batch_in_evaluation):
            return
        bases = torch.stack([self._initial_axes(index) for index in self.indices])
        own.register_buffer("mean", torch.zeros(count, self.width))
        if options.mode == "learned":
            own.basis = nn.Parameter(bases)
            return
        own.register_buffer("basis", bases)
        if options.with_complement:
            own.register_buffer("rest", complement(bases).to(bases.dtype))
        if options.mode in ("running", "batch", "fixed"):
            for name, size in (("count", (1,)), ("total", (self.width,)), ("outer", (self.width, self.width))):
                own.register_buffer(name, torch.zeros(count, *size, dtype=torch.float64), persistent=False)

    def _initial_axes(self, index: int) -> Tensor:
        m, mode, seed = self.options.m, self.options.mode, self.options.seed + index
        if mode in ("random_proj", "learned"):
            start = seeded_normal(seed, self.width, m) if mode == "random_proj" else torch.randn(self.width, m)
            orthonormal: Tensor = torch.linalg.qr(start).Q
            return orthonormal
        columns = seeded_order(seed, self.width) if mode == "random_coord" else torch.arange(self.width)
        return torch.eye(self.width)[:, columns[:m]]

    def learned(self, index: int) -> Tensor:
        """The learned values of a connection, (n, D - m)."""
        partials: Tensor = self.module.partials
        return partials[self._place(index) % len(partials)]

    def basis(self, index: int, outputs: Tensor, training: bool, is_first: bool) -> Basis:
        """The basis of a connection for prompt outputs (B, n, D), in their precision.

        Args:
            index: of the connection.
            outputs: to be projected.
            training: whether in training.
            is_first: whether a basis fitted to these outputs takes the place of the one that is kept.

        Raises:
            UsageError: when the outputs span fewer coordinates than are needed.
        """
        options = self.options
        rows = outputs.detach() if options.detached else guarded(outputs)
        if options.mode == "sample":
            return self._fitted(rows).to(outputs)
        if is_first or (options.mode == "batch" and (training or options.batch_in_evaluation)):
            fitted = self._fitted(rows.flatten(0, 1)).to(outputs)
            if is_first:
                self._keep(index, fitted)
            return fitted  # and not the buffers, which the next connection changes in place: this goes into the graph
        own, place = self.module, self._place(index)
        return Basis(own.mean[place], own.basis[place], own.rest[place] if options.with_complement else None).to(outputs)

    def observe(self, index: int, outputs: Tensor) -> None:
        """Adds prompt outputs (B, n, D) to the sums that the next basis is made of."""
        rows = outputs.detach().flatten(0, 1).double()
        own, place = self.module, self._place(index)
        own.count[place] += len(rows)
        own.total[place] += rows.sum(0)
        own.outer[place] += rows.mT @ rows

    def refresh(self, index: int) -> None:
        """Makes a new basis of the sums, its signs as in the old one; the sums start again.

        Raises:
            UsageError: when what was observed spans fewer coordinates than are needed.
        """
        own, place = self.module, self._place(index)
        count = own.count[place]
        if count < 2:
            return
        mean, moment = own.total[place] / count, own.outer[place] / count
        axes = axes_of_covariance(moment - torch.outer(mean, mean), moment.trace(), self.options.m)
        axes = axes * torch.where((axes * own.basis[place]).sum(0) < 0, -1.0, 1.0)
        self._keep(index, self._completed(mean, axes))
        for sums in (own.count, own.total, own.outer):
            sums[place] = 0

    def _place(self, index: int) -> int:
        return self.indices.index(index)

    def _fitted(self, rows: Tensor) -> Basis:
        """The principal axes of rows (R, D) or (B, R, D)."""
        return self._completed(*principal_axes(rows, self.options.m))

    def _completed(self, mean: Tensor, axes: Tensor) -> Basis:
        """A basis with its complement where that is needed; columns beyond the rank are 0."""
        if self.options.needs_rank and not axes.is_meta and not axes.any(-2).all():
            raise UsageError(
                f"viapt.pca_dim={self.options.m} is more than the rank of the prompt outputs: lower it, take larger batches,"
                " or set below_rank=zeros."
            )
        return Basis(mean, axes, complement(axes) if self.options.with_complement else None)

    def _keep(self, index: int, basis: Basis) -> None:
        own, place = self.module, self._place(index)
        with torch.no_grad():
            own.mean[place] = basis.mean.reshape(-1)
            own.basis[place] = basis.axes
            if basis.rest is not None:
                own.rest[place] = basis.rest


def by_stage(own: Any, stages: Sequence[Stage], first_block: int, options: BasisOptions) -> list[Connections]:
    """The connections of each stage, one before every block from ``first_block`` on.

    The tensors of a single stage go into ``own``, those of several into modules of their own, ``own.stages``.
    """
    several = len(stages) > 1
    if several:
        own.stages = nn.ModuleList(nn.Module() for _ in stages)
    connections = []
    for place, stage in enumerate(stages):
        indices = range(max(0, stage.first - first_block), stage.first + stage.depth - first_block)
        connections.append(Connections(own.stages[place] if several else own, indices, stage.width, options))
    return connections
