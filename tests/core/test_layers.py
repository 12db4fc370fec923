"""Imports point down: every module of vpbench stands on a floor, and imports from its own floor or a lower one only."""

from __future__ import annotations

import ast
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# From the top. Packages on one line may import each other, as long as no modules form a cycle.
FLOORS = [
    {"cli", "__main__"},
    {"checking"},
    {"api", "results", "model_api", "experiments"},
    {"reporting", "reports", "sharing"},
    {"execution", "search", "analysis", "deploy"},
    {"planning", "training", "measure"},
    {"models"},
    {"backbones", "tasks"},
    {"spec", "data", "store", "methods"},
    {"interface", "core"},
]
FLOOR = {package: len(FLOORS) - place for place, packages in enumerate(FLOORS) for package in packages}
FACADE = "vpbench"  # vpbench/__init__.py: public names, imported on first use; nothing inside imports it


def modules() -> dict[str, Path]:
    """Every module by its name as installed: methods/ and reports/ are subpackages of vpbench."""
    found = {}
    for folder in ("vpbench", "methods", "reports"):
        for path in (ROOT / folder).rglob("*.py"):
            parts = path.relative_to(ROOT).with_suffix("").parts
            parts = parts if folder == "vpbench" else ("vpbench", *parts)
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imported(path: Path, known: dict[str, Path]) -> set[str]:
    """Modules of vpbench that a file imports anywhere: at its top, inside functions, under TYPE_CHECKING."""
    names: list[str] = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    found = set()
    for name in names:
        while name and name not in known:
            name = name.rpartition(".")[0]
        if name:
            found.add(name)
    return found


MODULES = modules()


@cache
def edges() -> dict[str, set[str]]:
    return {name: imported(path, MODULES) - {name} for name, path in MODULES.items()}


def package(module: str) -> str:
    return module.split(".")[1]


@pytest.mark.parametrize("module", sorted(name for name in MODULES if name != FACADE))
def test_imports_point_down(module: str) -> None:
    assert package(module) in FLOOR, f"{module} stands on no floor: add its package to FLOORS"
    for other in edges()[module]:
        assert other != FACADE, f"{module} imports the facade {FACADE}"
        assert FLOOR[package(other)] <= FLOOR[package(module)], f"{module} imports {other}, which is above it"


def test_no_modules_import_each_other_in_a_circle() -> None:
    left = dict(edges())
    while left:
        leaves = {name for name, others in left.items() if not others & left.keys()}
        assert leaves, f"these modules import each other in a circle: {sorted(left)}"
        left = {name: others for name, others in left.items() if name not in leaves}


def test_a_file_name_occurs_once() -> None:
    names = Counter(path.name for name, path in MODULES.items() if path.is_relative_to(ROOT / "vpbench"))
    del names["__init__.py"]
    assert [name for name, count in names.items() if count > 1] == []


def test_files_are_short() -> None:
    long = {
        str(path.relative_to(ROOT)): count for path in MODULES.values() if (count := len(path.read_text().splitlines())) > 400
    }
    assert long == {}


@pytest.mark.parametrize(
    ("text", "home"),
    [
        ("rich.console import Console", "core.terminal"),  # what is printed through it is guarded
        (".expanduser()", "core.user_folders"),  # a process may have no home folder
    ],
)
def test_one_place_for(text: str, home: str) -> None:
    found = {name for name, path in MODULES.items() if text in path.read_text(encoding="utf-8")}
    assert found == {f"vpbench.{home}"}
