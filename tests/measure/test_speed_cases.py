"""``benchmarks/speed/steps.py`` times every method."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from vpbench.models.registry import method_registry, resolve_method


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    path = Path(__file__).parents[2] / "benchmarks" / "speed" / "steps.py"
    spec = importlib.util.spec_from_file_location("steps", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "steps", module)  # dataclasses look there
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")  # the script sets it, and other tests need not have it
    spec.loader.exec_module(module)
    return module


def test_every_method_is_a_case(steps: ModuleType) -> None:
    cases = steps.all_cases()
    assert {case.method for case in cases} == set(method_registry().names())
    assert len({case.name for case in cases}) == len(cases)
    for case in cases:
        resolve_method(case.method, case.options)
