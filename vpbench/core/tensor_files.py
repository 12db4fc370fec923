"""Tensors in files of other programs: reading them without running code, and what cannot be a weight."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

_REFUSED = re.compile(r"GLOBAL (\S+) (?:was|whose)")


def load_pickled(path: Path) -> Any:
    """What a file of ``torch.save`` holds, on the CPU, as ``torch.load(weights_only=True)`` reads it: never code.

    Beside tensors and plain containers two kinds of objects are read, since published checkpoints hold them: an
    ``argparse.Namespace`` (the options of DINO's and MAE's pretraining) and numbers of NumPy (an epoch's accuracy or loss).

    Raises:
        OSError: when it cannot be opened.
        Exception: of torch's reader, of many kinds, for a damaged file or another object (see :func:`refused_object`).
    """
    import torch

    allowed = torch.serialization.get_safe_globals()  # by the user; the end of the block would take these back
    with torch.serialization.safe_globals([each for each in _harmless() if each not in allowed]):
        return torch.load(path, map_location="cpu", weights_only=True)


def refused_object(error: Exception) -> str | None:
    """The full name of the object for which a file was refused; "" where torch does not say, None for other errors."""
    import pickle

    if not isinstance(error, pickle.UnpicklingError) or "GLOBAL" not in str(error):
        return None
    found = _REFUSED.search(str(error))
    return found[1] if found else ""


def _harmless() -> list[Any]:
    """What torch's reader may make beside tensors, as it wants it: classes, and functions with the name in the file."""
    from argparse import Namespace

    import numpy as np

    def dtype(name: str, *rest: Any) -> np.dtype[Any]:
        made = np.dtype(name, *rest)
        if made.kind not in "biuf":
            raise ValueError(f"NumPy's {made} is no type of a number")
        return made

    def scalar(kind: np.dtype[Any], content: Any) -> Any:
        # A pickle of protocol 2 keeps bytes as text.
        return np.frombuffer(content.encode("latin1") if isinstance(content, str) else content, kind)[0]

    modules = ("numpy.core.multiarray", "numpy._core.multiarray")  # before NumPy 2, and since
    functions = [(dtype, "numpy.dtype"), *((scalar, f"{module}.scalar") for module in modules)]
    return [Namespace, *functions, *{type(np.dtype(code)) for code in "?bBhHiIlLqQefd"}]


def _is_finite(tensor: Tensor) -> bool:
    """Whether no value is NaN or infinite. A finite sum says so at a tenth of the cost; another one may have overflowed."""
    return bool(tensor.sum().isfinite()) or bool(tensor.isfinite().all())


def unfit_values(tensors: Mapping[str, Tensor]) -> str:
    """Why tensors cannot be weights, in words; empty when all are finite floating point numbers."""
    strange = {name: tensor.dtype for name, tensor in tensors.items() if not tensor.is_floating_point()}
    if strange:
        kinds = ", ".join(sorted({str(dtype).removeprefix("torch.") for dtype in strange.values()}))
        return f"{_counted(list(strange))} {kinds}, not floating point: quantised or counted values, which are no weights"
    broken = [name for name, tensor in tensors.items() if not _is_finite(tensor.float())]
    if broken:
        return f"{_counted(broken)} NaN or infinite values, as after a training that diverged"
    return ""


def _counted(names: list[str]) -> str:
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return f"{names[0]}{more} {'have' if more else 'has'}"
