"""Which matrix product the frozen layers of a backbone use on a CPU in float32.

torch multiplies float32 matrices by MKL, which on some AMD processors reaches half of what oneDNN does. Both agree to
rounding. The choice is measured once per machine and stored, so that all processes and all later runs on it agree bit by bit.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F
from filelock import FileLock
from torch.nn.utils import skip_init

from vpbench.backbones.frozen_linear import FrozenLinear, Kernel, onednn_linear
from vpbench.core.files import write_atomically
from vpbench.core.processor import processor
from vpbench.core.user_folders import cache_root

WORTH_IT = 1.1  # times as fast over a whole block, at least, so that noise decides nothing
LAYERS = ((1, 3), (1, 1), (1, 4), (4, 1))  # of a block: widths of input and output, in widths of a token
ROWS, REPEATS = 512, 7
KERNELS: tuple[Kernel, Kernel] = ("default", "onednn")


def linear_kernel(width: int) -> Kernel:
    """The faster product for tokens of this width on this machine; ``VPBENCH_LINEAR`` (default or onednn) overrules it.

    The choice is stored in ``kernels.json`` in ``VPBENCH_CACHE`` or the user's cache folder. Where that folder cannot be
    written it is torch's default, since the next process might measure another one.
    """
    asked = os.environ.get("VPBENCH_LINEAR")
    if asked in ("default", "onednn"):
        return "onednn" if asked == "onednn" and _has_onednn() else "default"
    file = cache_root() / "kernels.json"
    name = f"{processor()}, torch {torch.__version__}, width {width}"
    if name not in (choices := _read(file)):
        with _alone(file) as writable:  # another process may have measured meanwhile, and what it found holds
            if name not in (choices := _read(file)) and writable:
                choices = {**choices, name: _measured(width)}
                _write(file, choices)
    return "onednn" if choices.get(name) == "onednn" else "default"


@contextmanager
def _alone(file: Path) -> Iterator[bool]:
    """One process at a time; whether the folder can be written."""
    with ExitStack() as stack:
        writable = False
        with suppress(OSError):
            file.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(FileLock(file.with_suffix(".lock")))
            writable = True
        yield writable


def _measured(width: int) -> Kernel:
    if not _has_onednn():
        return "default"
    with torch.inference_mode(False), torch.enable_grad():
        times = [_of_layer(inputs * width, outputs * width) for inputs, outputs in LAYERS]
    default, onednn = (sum(column) for column in zip(*times))
    return "onednn" if default > WORTH_IT * onednn else "default"


def _of_layer(inputs: int, outputs: int) -> list[float]:
    """Seconds of a layer's output and of its input's gradient together, by each of :data:`KERNELS`."""
    x, gradient = _values(ROWS, inputs).requires_grad_(), _values(ROWS, outputs)
    layer = skip_init(FrozenLinear, inputs, outputs).requires_grad_(False)
    layer.load_state_dict({"weight": _values(outputs, inputs), "bias": _values(outputs)})

    def seconds(kernel: Kernel) -> float:
        layer.kernel = kernel
        start = time.perf_counter()
        layer(x).backward(gradient)
        return time.perf_counter() - start

    # In turns, and the best of each: another process may slow down any of them.
    return [min(column) for column in zip(*([seconds(kernel) for kernel in KERNELS] for _ in range(REPEATS)))]


def _values(*size: int) -> torch.Tensor:
    """Random values that leave the run's own random stream alone."""
    return torch.randn(*size, generator=torch.Generator().manual_seed(0))


@cache
def _has_onednn() -> bool:
    """Whether torch was built with it and the call gives what it should."""
    if not torch.backends.mkldnn.is_available():
        return False
    x, weight = _values(3, 8), _values(4, 8)
    with suppress(RuntimeError, AttributeError, NotImplementedError):
        return torch.allclose(onednn_linear(x, weight, None), F.linear(x, weight), atol=1e-5)
    return False


def _read(file: Path) -> dict[str, str]:
    with suppress(OSError, ValueError):
        found = json.loads(file.read_text())
        if isinstance(found, dict):
            return found
    return {}


def _write(file: Path, choices: dict[str, str]) -> None:
    """Whole or not at all; on a full disk the next process measures again."""
    text = json.dumps(choices, indent=1, sort_keys=True)
    with suppress(OSError):
        write_atomically(file, lambda path: path.write_text(text))
