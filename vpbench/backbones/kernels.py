"""Which matrix product the frozen layers of a backbone use on a CPU in float32.

torch multiplies float32 matrices by MKL, which on some AMD processors reaches half of what oneDNN does. Both agree to
rounding. The choice is measured once for a machine and kept, so that all processes and all later runs on it agree bit by bit.
"""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F

from vpbench.backbones.frozen import Kernel, onednn_linear
from vpbench.core.files import write_whole
from vpbench.data.cache import default_root

WORTH_IT = 1.25  # times as fast, at least, so that noise decides nothing
ROWS, REPEATS = 512, 7


def linear_kernel(width: int) -> Kernel:
    """The faster product for tokens of this width on this machine; ``VPBENCH_LINEAR`` (default or onednn) overrules it.

    The choice is kept in ``kernels.json`` in ``VPBENCH_CACHE`` or the user's cache folder.
    """
    asked = os.environ.get("VPBENCH_LINEAR")
    if asked in ("default", "onednn"):
        return "onednn" if asked == "onednn" and _has_onednn() else "default"
    file = default_root() / "kernels.json"
    name = f"{_processor()}, torch {torch.__version__}, width {width}"
    kept = _read(file)
    if name not in kept:
        kept = {**kept, name: _measured(width)}
        _write(file, kept)
    return "onednn" if kept[name] == "onednn" else "default"


def _measured(width: int) -> Kernel:
    if not _has_onednn():
        return "default"
    x, weight, bias = _values(ROWS, width), _values(4 * width, width), _values(4 * width)
    with torch.inference_mode():
        # In turns, and the best of each: another process may slow down any of them.
        times = [(_seconds(lambda: F.linear(x, weight, bias)), _seconds(lambda: onednn_linear(x, weight, bias)))
                 for _ in range(REPEATS)]  # fmt: skip
    default, onednn = (min(column) for column in zip(*times))
    return "onednn" if default > WORTH_IT * onednn else "default"


def _values(*size: int) -> torch.Tensor:
    """Random values that leave the run's own random stream alone."""
    return torch.randn(*size, generator=torch.Generator().manual_seed(0))


def _seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


@cache
def _has_onednn() -> bool:
    """Whether torch was built with it and the call gives what it should."""
    if not torch.backends.mkldnn.is_available():
        return False
    x, weight = _values(3, 8), _values(4, 8)
    with suppress(RuntimeError, AttributeError, NotImplementedError):
        return torch.allclose(onednn_linear(x, weight, None), F.linear(x, weight), atol=1e-5)
    return False


def _processor() -> str:
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        facts = dict(line.split(":", 1) for line in lines[: lines.index("")] if ":" in line)
        named = {key.strip(): value.strip() for key, value in facts.items()}
        return " ".join(named.get(key, "") for key in ("model name", "cpu family", "model", "stepping"))
    return platform.processor() or platform.machine()


def _read(file: Path) -> dict[str, str]:
    with suppress(OSError, ValueError):
        found = json.loads(file.read_text())
        if isinstance(found, dict):
            return found
    return {}


def _write(file: Path, choices: dict[str, str]) -> None:
    """Whole or not at all; a folder that cannot be written costs a measurement each time, and nothing else."""
    text = json.dumps(choices, indent=1, sort_keys=True)
    with suppress(OSError):
        write_whole(file, lambda path: path.write_text(text))
