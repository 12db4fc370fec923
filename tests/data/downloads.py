"""What tests of downloads share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from vpbench.core.errors import DataError
from vpbench.data.download import RetryPolicy

QUICK = RetryPolicy(timeout=5, attempts=3, pause=0.001)
CONTENT = np.random.default_rng(0).bytes(3_000_000)


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def one_line(caught: pytest.ExceptionInfo[DataError], *parts: str) -> None:
    text = str(caught.value)
    assert "\n" not in text
    for part in parts:
        assert part in text
