"""Principal axes of rows, and what is fixed about them: order, signs, what lies beyond the rank."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from vpbench.interface import F, torch

if TYPE_CHECKING:
    from torch import Tensor


class Basis(NamedTuple):
    """Mean (..., D), orthonormal columns (..., D, m) and, for fusion in the subspace, their complement (..., D, D - m)."""

    mean: Tensor
    axes: Tensor
    rest: Tensor | None

    def to(self, other: Tensor) -> Basis:
        """The basis in the precision of ``other``."""
        return Basis(
            self.mean.to(other.dtype), self.axes.to(other.dtype), None if self.rest is None else self.rest.to(other.dtype)
        )


def principal_axes(rows: Tensor, m: int) -> tuple[Tensor, Tensor]:
    """Mean (..., 1, D) and the ``m`` leading principal axes (..., D, m) of rows (..., R, D), float64.

    Columns come by falling variance, with the entry of largest magnitude positive, and are 0 beyond the rank.
    """
    rows = rows.double()
    mean = rows.mean(-2, keepdim=True)
    _, deviations, axes = torch.linalg.svd(rows - mean, full_matrices=False)
    floor = torch.linalg.matrix_norm(rows).unsqueeze(-1) * max(rows.shape[-2:]) * torch.finfo(rows.dtype).eps
    return mean, _leading(axes.mT, deviations > floor, m)


def axes_of_covariance(covariance: Tensor, power: Tensor, m: int) -> Tensor:
    """The same (D, m) from a covariance (D, D); ``power``, the mean square of a row, sets what counts as no variance."""
    variances, axes = torch.linalg.eigh(covariance)
    return _leading(axes.flip(-1), variances.flip(-1) > power * len(covariance) * torch.finfo(covariance.dtype).eps, m)


def _leading(axes: Tensor, significant: Tensor, m: int) -> Tensor:
    axes = (axes * significant.unsqueeze(-2))[..., :m]
    largest = axes.gather(-2, axes.abs().argmax(-2, keepdim=True))
    return F.pad(axes * torch.where(largest < 0, -1.0, 1.0), (0, m - axes.shape[-1]))


def complement(axes: Tensor) -> Tensor:
    """Orthonormal columns (..., D, D - m) across the columns (..., D, m), float64; they depend on the span of those only."""
    width, m = axes.shape[-2:]
    axes = axes.detach().double()
    start = seeded_normal(0, width, width - m).to(axes)
    columns: Tensor
    triangle: Tensor
    columns, triangle = torch.linalg.qr(start - axes @ (axes.mT @ start))
    return columns * triangle.diagonal(dim1=-2, dim2=-1).sign().unsqueeze(-2)


def guarded(rows: Tensor) -> Tensor:
    """Rows in float64 whose gradient is 0 where it is not finite: that of a basis is not, at equal variances."""
    rows = rows.double().clone()
    if rows.requires_grad:
        rows.register_hook(_finite)  # type: ignore[no-untyped-call]
    return rows


def _finite(gradient: Tensor) -> Tensor:
    return torch.nan_to_num(gradient, nan=0.0, posinf=0.0, neginf=0.0)


def seeded_normal(seed: int, *size: int) -> Tensor:
    """Standard normal values that depend on the seed only: drawn on the CPU, then moved to the default device."""
    generator = torch.Generator("cpu").manual_seed(seed)
    return torch.randn(*size, generator=generator, device="cpu").to(torch.get_default_device())


def seeded_order(seed: int, count: int) -> Tensor:
    """0 to ``count`` - 1 in an order that depends on the seed only."""
    generator = torch.Generator("cpu").manual_seed(seed)
    return torch.randperm(count, generator=generator, device="cpu").to(torch.get_default_device())
