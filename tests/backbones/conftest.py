"""No weights of the user."""

from __future__ import annotations

import pytest


@pytest.fixture
def no_weights_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VPBENCH_WEIGHTS", raising=False)
