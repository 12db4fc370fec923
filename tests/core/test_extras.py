"""Every extra that a message or a page names exists, and the command works where vpbench runs."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from vpbench.core import extras
from vpbench.core.errors import UsageError

ROOT = Path(__file__).resolve().parents[2]
PLACES = (
    "vpbench/**/*.py",
    "methods/*.py",
    "reports/**/*.py",
    "benchmarks/**/*.toml",
    "docs/**/*.md",
    "*.md",
    ".github/**/*.yml",
    "tests/**/*.py",
)
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]


def named() -> dict[str, Path]:
    """Extras by name, with a file that names each."""
    found = {}
    for pattern in PLACES:
        for file in ROOT.glob(pattern):
            for names in re.findall(r"(?:vpbench|'\.|\*\.whl)\\?\[([a-z][a-z,-]*)\\?\]", file.read_text(encoding="utf-8")):
                found |= dict.fromkeys(names.split(","), file)
    return found


def test_extras_that_are_named_exist() -> None:
    found = named()
    assert {"search", "tfds", "ray"} <= found.keys()
    assert {name: str(file) for name, file in found.items() if name not in EXTRAS} == {}


def test_extras_of_executors_exist() -> None:
    """An executor that needs a library is an extra of its own name."""
    assert {"ray", "slurm"} <= EXTRAS.keys()


@pytest.mark.parametrize("installed", [True, False])
def test_a_command_works_in_a_clone_too(installed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras, "_is_installed", lambda: installed)
    text = str(UsageError("it needs an extra: pip install 'vpbench[search]'."))
    place = "vpbench" if installed else str(ROOT)
    assert text == f"it needs an extra: pip install '{place}[search]'."
    assert (Path(place) / "pyproject.toml").is_file() or installed
