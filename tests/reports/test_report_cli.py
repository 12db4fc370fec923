"""``vpbench report`` as a command."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from report_rows import clusters, fill, grid, make_row, save_features
from typer.testing import CliRunner

from vpbench.cli.report import PLOTS, report
from vpbench.core.errors import StoreError, UsageError

app = typer.Typer()
app.command()(report)
runner = CliRunner()


def test_table_1_is_the_default(tmp_path: Path) -> None:
    folder = fill(tmp_path, *grid()).folder
    result = runner.invoke(app, ["--results", str(folder)])
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("Table 1: Top-1 accuracy")
    assert runner.invoke(app, ["--results", str(folder), "--table", "1"]).stdout == result.stdout


def test_json_and_filters(tmp_path: Path) -> None:
    folder = fill(tmp_path, *grid()).folder
    result = runner.invoke(app, ["--results", str(folder), "--json", "--method", "vpt,linear", "--dataset", "digits"])
    table = json.loads(result.stdout)
    assert [row["label"] for section in table["sections"] for row in section["rows"]] == ["linear", "vpt"]


def test_written_files_are_named_on_stdout(tmp_path: Path) -> None:
    row = make_row()
    store = fill(tmp_path / "runs", row)
    save_features(store, row["run_id"], *clusters(3, 8, 6, 0.5))
    common = ["--results", str(store.folder), "--out"]
    assert runner.invoke(app, [*common, str(tmp_path / "t.md")]).stdout == f"{tmp_path / 't.md'}\n"
    figures = runner.invoke(app, ["--plot", "tsne", *common, str(tmp_path)]).stdout.splitlines()
    assert figures == [str(tmp_path / f"tsne_vit-nano_digits_seed0{suffix}") for suffix in (".png", ".pdf")]


def test_a_broken_result_is_one_line_on_stderr(tmp_path: Path) -> None:
    folder = fill(tmp_path, make_row()).folder
    (folder / "broken.parquet").write_bytes(b"not parquet")
    result = runner.invoke(app, ["--results", str(folder), "--format", "csv"])
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith("warning: ")
    assert "broken.parquet" in result.stderr
    assert "broken" not in result.stdout


def test_mistakes_are_vpbench_errors(tmp_path: Path) -> None:
    assert isinstance(runner.invoke(app, ["--results", str(tmp_path)]).exception, StoreError)
    folder = str(fill(tmp_path, make_row()).folder)
    assert isinstance(runner.invoke(app, ["--results", folder, "--table", "77"]).exception, UsageError)
    assert isinstance(runner.invoke(app, ["--results", folder, "--json", "--format", "md"]).exception, UsageError)


@pytest.mark.sweep
def test_report_never_imports_torch(tmp_path: Path) -> None:
    row = make_row()
    store = fill(tmp_path / "runs", row)
    save_features(store, row["run_id"], *clusters(3, 8, 6, 0.5))
    code = f"""
import sys
from pathlib import Path
from vpbench.cli.report import report
assert "pandas" not in sys.modules, "the command's module must import quickly"
report(results=Path({str(store.folder)!r}))
assert "matplotlib" not in sys.modules, "tables need no matplotlib"
report(plot="tsne", results=Path({str(store.folder)!r}), out=Path({str(tmp_path)!r}))
assert "torch" not in sys.modules
"""
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, cwd=root)


def test_help_names_every_figure() -> None:
    from vpbench.reporting.plot_registry import plot_registry

    assert sorted(name.replace("-", "_") for name in PLOTS) == plot_registry().names()


def test_papers_published_figures_and_tests(tmp_path: Path) -> None:
    folder = str(fill(tmp_path, *grid()).folder)
    table = runner.invoke(app, ["--results", folder, "--paper", "ivpt", "--table", "3", "--reported", "--format", "html"])
    assert table.exit_code == 0, table.output
    assert "<td>78.48</td>" in table.stdout
    compared = runner.invoke(app, ["--results", folder, "--compare", "insvp", "vpt"])
    assert compared.stdout.startswith("Paired comparison\n\ninsvp against vpt: ")
    ranked = runner.invoke(app, ["--results", folder, "--statistics", "--mix"])
    assert "Mean ranks, 1 is best: all sections together" in ranked.stdout
    assert isinstance(runner.invoke(app, ["--results", folder, "--statistics", "--table", "2"]).exception, UsageError)
