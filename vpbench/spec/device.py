"""The machine that a run happens on."""

from __future__ import annotations

import platform
import subprocess
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import torch

from vpbench.core.errors import UsageError
from vpbench.core.processor import processor
from vpbench.core.version import __version__


def resolve_device(name: str) -> torch.device:
    """``auto`` (a GPU if there is one), ``cpu`` or ``cuda``.

    Raises:
        UsageError: when a GPU is asked for and there is none.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise UsageError(f"--device {name}: take auto, cpu or cuda.")
    if name == "cuda" and not torch.cuda.is_available():
        raise UsageError("--device cuda: torch sees no GPU here; take --device cpu or auto.")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def planned_device(name: str) -> torch.device:
    """As :func:`resolve_device`, for a plan: a GPU that is asked for need not be in this machine.

    Raises:
        UsageError: for another name.
    """
    return torch.device("cuda") if name == "cuda" else resolve_device(name)


def cpu_computes_bf16() -> bool:
    """Whether the processor has bfloat16 arithmetic, so that bf16 is faster than fp32 and not slower."""
    with suppress(OSError):
        return any(flag in Path("/proc/cpuinfo").read_text() for flag in ("avx512_bf16", "amx_bf16", " bf16"))
    return False


def describe(device: torch.device) -> dict[str, Any]:
    """The environment columns of a row."""
    import timm

    commit, dirty = _checkout()
    return {
        "vpbench_version": __version__,
        "git_commit": commit,
        "git_dirty": dirty,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "timm": timm.__version__,
        "platform": f"{platform.system()} {platform.machine()}",
        "device": device.type,
        "device_name": torch.cuda.get_device_name(device) if device.type == "cuda" else processor(),
        "threads": torch.get_num_threads(),
    }


@cache
def _checkout() -> tuple[str | None, bool | None]:
    """Commit and dirty flag of the checkout that vpbench runs from, or None twice when it is installed."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None, None

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", "-C", str(root), *words], capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()

    with suppress(OSError, subprocess.SubprocessError):
        return git("rev-parse", "HEAD"), bool(git("status", "--porcelain", "--untracked-files=no"))
    return None, None
