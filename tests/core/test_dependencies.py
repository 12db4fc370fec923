"""Dependencies of pyproject.toml: all that is imported and nothing else, with lower bounds that have what is used."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Mapping
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
# The first version that has what vpbench uses, where a test of an installed version cannot tell.
NEEDED = {
    "filelock": (4, 1),  # locks that exclude each other where flock is missing: earlier ones raise or remove each other's file
    "huggingface-hub": (0, 25),  # huggingface_hub.errors.HfHubHTTPError
    "torch": (2, 6),  # weights_only refuses code (CVE-2025-32434) and TorchScript archives
    "typer": (0, 16),  # options of type `str | None`, click 8.2
}


def normalised(name: str) -> str:
    """Name of a distribution as PEP 503 compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def bounds(requirements: list[str]) -> dict[str, tuple[int, ...]]:
    """Lower bound of each requirement, by normalised name."""
    found = {}
    for requirement in requirements:
        match = re.match(r"([\w.-]+)(?:\[.*?\])?>=([\d.]+)", requirement)
        if match:
            found[normalised(match[1])] = tuple(map(int, match[2].split(".")))
    return found


@cache
def imported() -> frozenset[str]:
    """Top-level modules that the installed packages import, also inside functions."""
    names: set[str] = set()
    for folder in ("vpbench", "methods", "reports"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Import):
                    names |= {alias.name.partition(".")[0] for alias in node.names}
                elif isinstance(node, ast.ImportFrom) and node.module == "backports":
                    # Many distributions share this package, each named as its module.
                    names |= {f"backports.{alias.name}" for alias in node.names}
                elif isinstance(node, ast.ImportFrom) and node.module:
                    names.add(node.module.partition(".")[0])
    return (
        frozenset(names) - set(sys.stdlib_module_names) - {"vpbench", "__future__", "IPython"}
    )  # IPython is there in every notebook


@cache
def distributions_of_modules() -> Mapping[str, list[str]]:
    return packages_distributions()


REQUIRED = bounds(PROJECT["dependencies"])
EXTRAS = {name for extra in PROJECT["optional-dependencies"].values() for name in bounds(extra)}


def test_every_import_is_a_dependency() -> None:
    distributions = distributions_of_modules()
    known = {module: {normalised(name) for name in distributions[module]} for module in imported() if module in distributions}
    undeclared = {module for module, names in known.items() if not names & (REQUIRED.keys() | EXTRAS)}
    assert undeclared == set()


def test_every_dependency_is_imported() -> None:
    distributions = distributions_of_modules()
    used = {normalised(name) for module in imported() for name in distributions.get(module, [module])}
    assert REQUIRED.keys() - used == set()


@pytest.mark.parametrize("name", sorted(NEEDED))
def test_lower_bound(name: str) -> None:
    assert REQUIRED[name] >= NEEDED[name]
