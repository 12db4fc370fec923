"""A GPU for tests of device placement, on machines without one.

torch's ``FakeTensorMode`` tracks shapes, dtypes and devices of tensors and computes nothing. An operation on tensors of two
devices raises, as on a real GPU, so that a tensor that stayed on the CPU is found. Two things do not run there:

- autograd's backward pass, which asks the CUDA driver for its devices: see :func:`moved_to_meta` and :meth:`FakeGpu.gradients`;
- whatever depends on values: ``.item()``, ``bool(tensor)`` and ``.numpy()`` return constants.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensor, FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils import swap_tensors

DEVICE = torch.device("cuda", 0)
VALUES_NEEDED = (DataDependentOutputException, DynamicOutputShapeException)


class Constants(TorchFunctionMode):
    """Constants for what reads the values of a tensor, also on the meta device."""

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        name = getattr(func, "__name__", "")
        if args and isinstance(args[0], Tensor) and (isinstance(args[0], FakeTensor) or args[0].is_meta):
            tensor = args[0]
            if name == "numpy":
                if tensor.device.type != "cpu":
                    raise TypeError(f"can't convert {tensor.device} device type tensor to numpy. Use Tensor.cpu() first.")
                return np.zeros(tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))
            if name in CONSTANTS:
                return CONSTANTS[name](tensor)
        return func(*args, **(kwargs or {}))


CONSTANTS: dict[str, Callable[[Tensor], Any]] = {
    "item": lambda tensor: True if tensor.dtype == torch.bool else 1.0 if tensor.is_floating_point() else 0,
    "tolist": lambda tensor: np.zeros(tuple(tensor.shape), int).tolist(),
    "__bool__": lambda tensor: True,
    "__float__": lambda tensor: 1.0,
    "__int__": lambda tensor: 0,
    "__index__": lambda tensor: 0,
    "pin_memory": lambda tensor: tensor,  # needs a driver, and moves nothing to another device
}


class FakeGpu:
    """A fake CUDA device; enter :meth:`active` to compute on it."""

    def __init__(self) -> None:
        self.mode = FakeTensorMode(allow_non_fake_inputs=True)  # tensors that nobody moved count as tensors on the CPU

    @contextmanager
    def active(self) -> Iterator[None]:
        # cuDNN's own operators have no fake form; those that stand in for them do.
        with self.mode, Constants(), torch.backends.cudnn.flags(enabled=False), pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch.cuda, "synchronize", lambda *_: None)  # needs a driver
            yield

    def move(self, module: nn.Module) -> None:
        """What ``module.to("cuda")`` does: parameters and buffers move and stay the same objects; no other tensor does."""
        for tensor in [*module.parameters(), *module.buffers()]:
            meta = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")
            fake = FakeTensor(self.mode, meta.requires_grad_(tensor.requires_grad), DEVICE)
            fake._is_param = isinstance(tensor, nn.Parameter)
            swap_tensors(tensor, fake)

    @contextmanager
    def gradients(self, module: nn.Module) -> Iterator[None]:
        """Zeros for gradients, in ``loss.backward()`` for all trainable parameters and in ``torch.autograd.grad``."""

        def backward(loss: Tensor, *args: Any, **keywords: Any) -> None:
            assert loss.device == DEVICE and loss.requires_grad, "a loss without gradient, or not on the device"
            for tensor in module.parameters():
                if tensor.requires_grad:
                    tensor.grad = torch.zeros_like(tensor)

        def grad(outputs: Any, inputs: Any, *args: Any, **keywords: Any) -> tuple[Tensor, ...]:
            return tuple(torch.zeros_like(tensor) for tensor in ([inputs] if isinstance(inputs, Tensor) else inputs))

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Tensor, "backward", backward)
            patch.setattr(torch.autograd, "grad", grad)
            yield


def moved_to_meta(module: nn.Module) -> Any:
    """The module on the meta device, where backward passes run without values; parameters stay the same objects."""
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        return module.to("meta")
    finally:
        torch.__future__.set_swap_module_params_on_conversion(False)


@contextmanager
def skip_where_values_matter() -> Iterator[None]:
    """Skips a test of code whose shapes depend on the values of tensors."""
    try:
        yield
    except VALUES_NEEDED as error:
        pytest.skip(f"depends on values: {error}")
