"""The documentation: links lead somewhere, generated pages say what the registry knows, and versions agree."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import vpbench
from vpbench.cli.app import COMMANDS
from vpbench.reporting.describe import describe_method, listing
from vpbench.spec.recipe import Recipe

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
GENERATED = ("methods/", "reference/datasets.md", "reference/recipe.md", "reference/commands.md")


@pytest.fixture(scope="module")
def pages() -> ModuleType:
    """The hook that makes pages, docs/pages.py."""
    pytest.importorskip("mkdocs", reason="MkDocs is not installed (pip install 'vpbench[docs]'); THE SITE IS NOT TESTED")
    spec = importlib.util.spec_from_file_location("pages", DOCS / "pages.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("file", sorted(str(file.relative_to(ROOT)) for file in (*DOCS.rglob("*.md"), *ROOT.glob("*.md"))))
def test_links_lead_to_files(file: str) -> None:
    place = ROOT / file
    for link in re.findall(r"\]\(([^)\s]+)\)", place.read_text(encoding="utf-8")):
        target = link.partition("#")[0]
        if target and not target.startswith(("http", "mailto")):
            path = (place.parent / target).resolve()
            is_generated = path.is_relative_to(DOCS) and str(path.relative_to(DOCS)).startswith(GENERATED)
            assert path.exists() or is_generated, f"{file} links to {link}"


def test_a_method_has_its_page(pages: ModuleType) -> None:
    facts = describe_method("insvp")
    text = pages.method_page(facts, {"trained parameters": "1"})
    assert text.startswith(f"# {facts['title']}\n")
    assert "    x~  = x + local_weight G_l(x)" in text  # an equation of the docstring
    for part in (*(each["option"] for each in facts["options"]), *(each["preset"] for each in facts["presets"])):
        assert part in text
    for heading in ("## What it computes", "## Cost", "## Options", "## Presets", "## Notes"):
        assert heading in text
    assert "``" not in text and ":class:" not in text


def test_lists_are_complete(pages: ModuleType) -> None:
    methods = {entry["name"] for entry in listing("methods")}
    inside = [page for part in pages.navigation()[1:] for pages_of in part.values() for page in pages_of]
    assert {name for page in inside for name in page} == methods
    recipe = pages.recipe_page()
    assert all(f"`{field}`" in recipe for field in Recipe.model_fields)
    commands = pages.commands_page()
    assert all(f"## vpbench {name}" in commands for name in [*COMMANDS, "data", "new"])
    assert "`--methods`" in commands and "\b" not in commands


def test_versions_agree() -> None:
    assert f"version: {vpbench.__version__}\n" in (ROOT / "CITATION.cff").read_text()
    changes = (ROOT / "CHANGELOG.md").read_text()
    assert "## Unreleased" in changes or f"## {vpbench.__version__}" in changes


@pytest.mark.sweep
def test_the_site_builds(tmp_path: Path) -> None:
    """With --strict, broken links and anchors are errors."""
    pytest.importorskip("mkdocs", reason="MkDocs is not installed (pip install 'vpbench[docs]'); THE SITE IS NOT BUILT")
    pytest.importorskip("material", reason="mkdocs-material is not installed; THE SITE IS NOT BUILT")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "site" / "methods" / "vpt" / "index.html").is_file()
