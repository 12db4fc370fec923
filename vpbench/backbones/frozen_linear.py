"""Linear layers whose weights never change: what can be precomputed for them once instead of in every pass."""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Kernel = Literal["default", "onednn"]


class FrozenLinear(nn.Linear):
    """The same function as ``nn.Linear``, for frozen weights.

    - Under autocast the weights are cast once; autocast casts them in every pass, and saves the copy for the backward pass.
    - On a CPU whose default library is slow in float32 the product is computed by oneDNN, forward and backward.

    It falls back to ``nn.Linear`` while a method trains its weight or bias.

    Attributes:
        kernel: ``"onednn"`` or torch's ``"default"``, see :mod:`vpbench.backbones.kernels`.
    """

    kernel: Kernel = "default"

    def forward(self, x: Tensor) -> Tensor:
        return self.part(x, 0, self.out_features)

    def part(self, x: Tensor, start: int, stop: int) -> Tensor:
        """The outputs ``start`` to ``stop`` alone, (..., in_features) to (..., stop - start)."""
        bias: Tensor | None = self.bias
        if self.weight.requires_grad or (bias is not None and bias.requires_grad):
            return _part(self, x, start, stop)
        device = x.device.type
        if not x.is_meta and torch.is_autocast_enabled(device):
            dtype = torch.get_autocast_dtype(device)
            weight, bias = self._cast(dtype)
            with torch.autocast(device, enabled=False):
                return F.linear(x.to(dtype), weight[start:stop], None if bias is None else bias[start:stop])
        if self.kernel == "onednn" and x.dtype == torch.float32 and device == "cpu":
            weight, bias = self.weight[start:stop], None if bias is None else bias[start:stop]
            if not (x.requires_grad and torch.is_grad_enabled()):
                return onednn_linear(x, weight, bias)
            return _OneDNN.apply(x, weight, bias, self._transposed(start, stop))
        return _part(self, x, start, stop)

    def _cast(self, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
        weight, bias = self.weight.detach(), None if self.bias is None else self.bias.detach()
        return self._cached(("cast", dtype), lambda: (weight.to(dtype), None if bias is None else bias.to(dtype)))

    def _transposed(self, start: int, stop: int) -> Tensor:
        """The transposed weight of some outputs, for the backward pass."""
        return self._cached(("transposed", start, stop), lambda: self.weight.detach()[start:stop].T.contiguous())

    def _cached(self, name: tuple[Any, ...], make: Any) -> Any:
        """What was computed from the present weights, computed again when they changed."""
        version = (self.weight.data_ptr(), self.weight._version, self.weight.device)
        cache: dict[Any, Any] = self.__dict__.setdefault("_cache", {})
        if cache.get("version") != version:
            cache.clear()
            cache["version"] = version
        if name not in cache:
            cache[name] = make()
        return cache[name]


class _OneDNN(torch.autograd.Function):
    """A frozen linear layer by oneDNN's matrix product; nothing of its input is saved."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, transposed: Tensor) -> Tensor:
        ctx.transposed = transposed
        return onednn_linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:  # type: ignore[override]
        return onednn_linear(gradient.contiguous(), ctx.transposed, None), None, None, None


def onednn_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``F.linear`` by oneDNN's matrix product, on a CPU in float32.

    torch has no public call for it in full precision; this is the one that its own compiler uses.
    """
    found: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return found


def freeze_linears(module: nn.Module, kernel: Kernel = "default") -> None:
    """Turn the plain ``nn.Linear`` layers inside a frozen module into :class:`FrozenLinear`, parameters and names unchanged."""
    for layer in module.modules():
        if type(layer) is nn.Linear:
            layer.__class__ = FrozenLinear
        if isinstance(layer, FrozenLinear):
            layer.kernel = kernel


def part(linear: nn.Linear, x: Tensor, start: int, stop: int) -> Tensor:
    """The outputs ``start`` to ``stop`` of a linear layer alone."""
    return linear.part(x, start, stop) if isinstance(linear, FrozenLinear) else _part(linear, x, start, stop)


def slices(linear: nn.Linear, start: int, stop: int) -> tuple[Tensor, Tensor | None]:
    """Weights (stop - start, in_features) and bias of some outputs of a linear layer."""
    return linear.weight[start:stop], None if linear.bias is None else linear.bias[start:stop]


def _part(linear: nn.Linear, x: Tensor, start: int, stop: int) -> Tensor:
    return F.linear(x, *slices(linear, start, stop))
