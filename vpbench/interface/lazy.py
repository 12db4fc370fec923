"""Lazy imports of torch.

A method file holds its configuration, which ``vpbench list`` and ``show`` print, and its mathematics, which needs torch.
Method files import ``torch``, ``nn`` and ``F`` from here, so that the first can be read in a tenth of a second.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any


class _LazyModule:
    """A module that is imported at the first access to one of its attributes."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        return getattr(import_module(self._name), attribute)


if TYPE_CHECKING:
    import torch as torch
    from torch import nn as nn
    from torch.nn import functional as F

    __all__ = ["F", "nn", "torch"]
else:
    torch, nn, F = _LazyModule("torch"), _LazyModule("torch.nn"), _LazyModule("torch.nn.functional")
