"""Implicit layers: fixed points z = f(z), and their gradients by the implicit function theorem."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from vpbench.interface import torch

if TYPE_CHECKING:
    from torch import Tensor

Step = Callable[["Tensor"], "Tensor"]
Solver = Callable[[Step, "Tensor"], "Tensor"]
RIDGE = 1e-6  # on the normal equations, relative to their diagonal


def iterate(step: Step, start: Tensor, steps: int) -> Tensor:
    """``step`` applied ``steps`` times to (B, ...)."""
    for _ in range(steps):
        start = step(start)
    return start


def anderson(step: Step, start: Tensor, steps: int, memory: int) -> Tensor:
    """Anderson acceleration, for each row of (B, ...) by itself: the next point is the mix of the last outputs, with weights that
    sum to one, whose residual step(z) - z is least.

    Args:
        step: a contraction.
        steps: how often it is called; a fixed number, so that a row's result does not depend on the other rows.
        memory: outputs that are mixed.
    """
    current = start
    points: list[Tensor] = []
    outputs: list[Tensor] = []
    for _ in range(steps):
        output = step(current)
        points, outputs = [*points, current][-memory:], [*outputs, output][-memory:]
        residuals = torch.stack([(found - point).flatten(1) for found, point in zip(outputs, points)], 1)
        mixed = torch.einsum("bm,bmn->bn", _weights(residuals), torch.stack([found.flatten(1) for found in outputs], 1))
        current = mixed.view_as(start)
    return current


def _weights(residuals: Tensor) -> Tensor:
    """Weights (B, m) of sum 1 that make the mix of residuals (B, m, n) short."""
    gram = residuals @ residuals.transpose(1, 2)
    size = gram.diagonal(dim1=1, dim2=2).mean(-1)[:, None, None]
    identity = torch.eye(gram.shape[1], dtype=gram.dtype, device=gram.device)
    gram = gram / (size + torch.finfo(gram.dtype).tiny) + RIDGE * identity
    weights = torch.linalg.solve(gram, torch.ones_like(gram[:, :, :1]))[..., 0]
    return weights / weights.sum(1, keepdim=True)


def equilibrium(f: Step, start: Tensor, solve: Solver) -> Tensor:
    """z = f(z), (B, ...), with gradient to whatever f depends on.

    The fixed point is found without gradient and f applied to it once more with gradient. If g is the loss's gradient at z and
    J is df/dz, what reaches that last f is u = g + J^T u, a fixed point too, which the same solver finds: nothing in between is
    kept.
    """
    with torch.no_grad():
        fixed = solve(f, start)
    result = f(fixed)
    if not result.requires_grad:
        return result
    at = fixed.detach().requires_grad_()
    once = f(at)

    def implicit(gradient: Tensor) -> Tensor:
        def transposed(u: Tensor) -> Tensor:
            return gradient + torch.autograd.grad(once, at, u, retain_graph=True)[0]

        return solve(transposed, gradient)

    result.register_hook(implicit)
    return result
