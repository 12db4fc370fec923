"""Figures of the user's own folder and of other distributions, drawn as vpbench's own are."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
from report_rows import fill, make_row

from vpbench.core.errors import UsageError
from vpbench.reporting.make_report import make_report
from vpbench.reporting.plot_registry import plot_names

SOURCE = '''
"""How many runs there are."""

from matplotlib.figure import Figure

def draw(store, runs, filters):
    figure = Figure()
    figure.subplots().bar(["runs"], [len(runs)])
    yield "counted", figure
'''


@pytest.mark.parametrize("place", ["folder", "entry point"])
def test_a_figure_of_ones_own(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if place == "folder":
        (tmp_path / "mine" / "plots").mkdir(parents=True)
        (tmp_path / "mine" / "plots" / "how_many.py").write_text(SOURCE)
        monkeypatch.setenv("VPBENCH_PATH", str(tmp_path / "mine"))
    else:
        information = tmp_path / "site" / "counting-1.0.dist-info"
        information.mkdir(parents=True)
        (information / "METADATA").write_text("Metadata-Version: 2.1\nName: counting\nVersion: 1.0\n")
        (information / "entry_points.txt").write_text("[vpbench.plots]\nhow_many = counting_of_others\n")
        (tmp_path / "site" / "counting_of_others.py").write_text(SOURCE)
        monkeypatch.syspath_prepend(str(tmp_path / "site"))
        importlib.invalidate_caches()
    fill(tmp_path / "runs", make_row("vpt"), make_row("linear"))
    assert "how-many" in plot_names()
    paths = make_report(plot="how-many", results=tmp_path / "runs", out=tmp_path / "figures")
    assert sorted(path.name for path in map(Path, paths)) == ["counted.pdf", "counted.png"]
    with pytest.raises(UsageError, match="Did you mean 'how-many'"):
        make_report(plot="how-may", results=tmp_path / "runs")
