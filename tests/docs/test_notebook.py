"""The notebook of first steps runs, and shows a table, a figure and a prediction."""

from __future__ import annotations

import base64
import os
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.sweep
def test_first_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed (pip install 'vpbench[docs]'); NOT TESTED")
    nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed (pip install 'vpbench[docs]'); NOT TESTED")
    pytest.importorskip("ipykernel", reason="ipykernel is not installed (pip install 'vpbench[docs]'); NOT TESTED")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])))
    monkeypatch.setenv("VPBENCH_CACHE", str(tmp_path / "cache"))
    notebook = nbformat.read(ROOT / "docs" / "first-steps.ipynb", as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells), "clear the notebook's outputs"
    nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = [output for cell in notebook.cells for output in cell.get("outputs", []) if "data" in output]
    texts = [str(output["data"].get("text/plain", "")) for output in shown]
    assert any("VPT" in text or "VPT" in str(output["data"].get("text/html", "")) for text, output in zip(texts, shown))
    (picture,) = pictures(shown)
    assert picture.startswith(b"\x89PNG") and len(picture) > 10_000
    label, probability = eval(texts[-1])  # a tuple of ours
    assert label in map(str, range(10)) and 0.1 < probability <= 1


def pictures(outputs: list[Any]) -> list[bytes]:
    return [base64.b64decode(output["data"]["image/png"]) for output in outputs if "image/png" in output["data"]]
