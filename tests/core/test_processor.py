"""The name of the processor."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from vpbench.core.processor import processor

CPUINFO = Path("/proc/cpuinfo")


@pytest.mark.skipif(not CPUINFO.exists() or "model name" not in CPUINFO.read_text(), reason="no /proc/cpuinfo with names")
def test_it_tells_generations_of_one_name_apart() -> None:
    """They add in different orders, and on virtual machines they are all called the same."""
    lines = [line.partition(":") for line in CPUINFO.read_text().split("\n\n")[0].splitlines()]
    facts = {key.strip(): value.strip() for key, _, value in lines}
    assert processor().startswith(facts["model name"])
    assert processor().endswith(torch.backends.cpu.get_cpu_capability())
    if "model" in facts:
        assert f"model {facts['model']}," in processor()
