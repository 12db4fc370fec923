"""Name of this machine's processor."""

from __future__ import annotations

import platform
from contextlib import suppress
from functools import cache
from pathlib import Path


@cache
def processor() -> str:
    """Model, family and vector instructions, ``AMD EPYC, family 25, model 17, AVX512``.

    On virtual machines the model name alone does not identify a processor: several generations share it and differ in speed
    and in the order of summation.
    """
    import torch

    with suppress(OSError):
        first, _, _ = Path("/proc/cpuinfo").read_text().partition("\n\n")
        facts = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in first.splitlines())}
        if name := facts.get("model name"):
            kind = [f"{key.removeprefix('cpu ')} {facts[key]}" for key in ("cpu family", "model") if key in facts]
            return ", ".join([name, *kind, torch.backends.cpu.get_cpu_capability()])
    return platform.processor() or platform.machine()
