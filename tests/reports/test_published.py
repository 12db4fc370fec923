"""Published numbers: definitions, reference data, and formats."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import subprocess
from importlib.resources import files
from itertools import pairwise
from pathlib import Path

import pandas as pd
import pytest
from report_rows import fill, frame_of, grid, labels_of, make_row
from reported_tables import TABLES, cell, hta_row, reported
from sweeps import case, some

from vpbench.models.registry import resolve_method
from vpbench.planning.suites import suite_card
from vpbench.reporting.build_table import build_table
from vpbench.reporting.definition import load_definition
from vpbench.reporting.formats import comma_separated, terminal, web
from vpbench.reporting.frame import Filters
from vpbench.reporting.keys import RowKey
from vpbench.reporting.make_report import make_report
from vpbench.reporting.published import footnotes, published_figures
from vpbench.reporting.table import Cell

# Definitions and reference data


@pytest.mark.parametrize(("paper", "number"), [*TABLES, ("vpbench", "1")])
def test_every_table_has_a_definition_that_holds(paper: str, number: str) -> None:
    definition = load_definition(paper, number)
    figures = published_figures(definition, paper)
    assert bool(figures) == (paper != "vpbench")
    assert set(definition.published.values()) <= {figure.method for figure in figures}
    for line in definition.lines:
        resolve_method(line.method, line.options)  # options that the method does not have would be refused
    for rows in definition.rows:
        for method in rows.methods:
            resolve_method(method)
    assert definition.run or paper == "vpbench"
    assert all(suite_card(suite).datasets for suite in definition.suites)


@pytest.mark.parametrize(("paper", "number"), TABLES)
def test_every_command_that_fills_a_table_parses(paper: str, number: str) -> None:
    """Its methods, options, suite and data sets exist."""
    for command in load_definition(paper, number).run:
        words = command.split()
        assert words[:2] == ["vpbench", "run"]
        given: dict[str, list[str]] = {}
        for flag, value in pairwise(words):
            if flag.startswith("--"):
                given.setdefault(flag, []).append(value)
        assert set(given) <= {"--methods", "--suite", "--backbone", "--datasets", "--set"}
        settings = dict(setting.split(".", 1)[1].split("=") for setting in given.get("--set", []))
        owners = {setting.split(".", 1)[0] for setting in given.get("--set", [])}
        for method in given["--methods"][0].split(","):
            resolve_method(method, settings if method.partition(":")[0] in owners else {})
        for dataset in given.get("--datasets", [""])[0].split(","):
            assert not dataset or dataset in suite_card(given["--suite"][0]).datasets


# Numbers printed in each table, dashes left out, counted in the files of benchmarks/reference.
PRINTED = {
    ("insvp", "1"): 191, ("insvp", "2"): 33, ("insvp", "3"): 30, ("insvp", "4"): 30, ("insvp", "5"): 20,
    ("ivpt", "1"): 389, ("ivpt", "2"): 16, ("ivpt", "3"): 20, ("ivpt", "4"): 12, ("ivpt", "5"): 32, ("ivpt", "6"): 32,
    ("ivpt", "7"): 15, ("ivpt", "8"): 22, ("ivpt", "9"): 43, ("ivpt", "10"): 92, ("ivpt", "11"): 115, ("ivpt", "12"): 69,
    ("ivpt", "13"): 165, ("ivpt", "14"): 108, ("viapt", "1"): 3,
}  # fmt: skip


@pytest.mark.parametrize(("paper", "number"), TABLES)
def test_every_printed_row_is_one_of_ours_or_named_with_the_reason(paper: str, number: str) -> None:
    definition = load_definition(paper, number)
    printed = {figure.method for figure in published_figures(definition, paper)}
    rows = [definition.row_of(name) for name in printed]
    without = {row for row in rows if isinstance(row, str)}
    assert without == set(definition.without_row)
    for row in set(rows) - without:
        assert definition.lists(row) and definition.published_name(row) in printed
    named = {line.label for line in definition.lines} | {name for rows in definition.rows for name in rows.methods}
    assert {name.partition(":")[0] for name in (*definition.published, *definition.elsewhere)} <= named


def test_tables_of_methods_have_all_rows_of_the_paper() -> None:
    rows = {paper: len(set(load_definition(paper, "1").published.values())) for paper in ("insvp", "ivpt")}
    assert rows == {"insvp": 18, "ivpt": 17}


@pytest.mark.parametrize(("paper", "number"), some(TABLES, 5))
def test_every_published_number_is_printed_beside_its_row(paper: str, number: str) -> None:
    """Without a run, and where there is a run of one method on one data set."""
    definition = load_definition(paper, number)
    runs = []
    if definition.suites:
        suite, method = definition.suites[0], (*definition.lines[:1], *definition.rows[0].methods[:1])[0]
        label, options = (method, None) if isinstance(method, str) else (method.method, dict(method.options))
        on = {"backbone": definition.backbones[0], "weights": "file", "suite": suite}
        if definition.metric == "miou":
            on |= {"task": "segmentation", "metric": "miou", "score": 40.0, "miou": 40.0}
        runs = [hta_row(label, suite_card(suite).datasets[0], options=options, **on)]
    for rows in ([], runs):
        table = reported(rows, paper, number)
        cells = [
            (section, row, cell)
            for section in table.sections
            for row in section.rows
            for column, cell in zip(section.columns, row.cells, strict=True)
            if column.kind == "reported" and cell.mean is not None
        ]
        assert len(cells) == PRINTED[paper, number]
        figures = [figure for figure in published_figures(definition, paper) if figure.value is not None]
        assert sorted(cell.text for *_, cell in cells) == sorted(figure.text for figure in figures)
        assert all(cell.n is None and cell.rank is None for *_, cell in cells)


def test_rows_of_the_paper_stay_without_a_run() -> None:
    table = build_table(frame_of(hta_row("vpt", "cub"), hta_row("insvp:released", "cub")), load_definition("insvp", "1"))
    (section,) = table.sections
    names = [row.key.name for row in section.rows if not isinstance(row.key, str)]
    assert names == [
        "full", "linear", "partial", "mlp", "bias", "sidetune", "adapter", "adaptformer", "vp", "vpt", "dam_vp", "ilm_vp",
        "e2vpt", "transhp", "lion", "autovp", "insvp", "insvp:released",
    ]  # fmt: skip
    assert all(
        each == Cell()
        for row in section.rows
        if row.key not in (RowKey("vpt"), RowKey("insvp", "released"))
        for each in row.cells
    )
    (line,) = [line for line in table.footer if line.startswith("No run here of Full, Linear, Partial-1, MLP-3, Bias, ")]
    assert "vpbench run --methods full,linear,partial" in line
    only = build_table(frame_of(hta_row("vpt", "cub")), load_definition("insvp", "1"), Filters(method=("vpt",)))
    elsewhere = build_table(frame_of(make_row("vpt")), load_definition("insvp", "1"))
    assert labels_of(only.sections[0]) == labels_of(elsewhere.sections[0]) == ["vpt"]


def test_a_row_on_a_backbone_of_its_own() -> None:
    """GaPT stands in InsVP's Table 1 with MoCo v3 weights, which no other row there has."""
    moco = {"backbone": "vit-b16-mocov3"}
    runs = [hta_row("vpt", "cub"), hta_row("gapt", "cub", **moco), hta_row("vpt", "cub", **moco)]
    table = reported(runs)
    assert [labels_of(section)[:1] for section in table.sections] == [["full"], ["gapt"]]
    assert cell(table.sections[1], "gapt", "gap", "cub").text == "-2.9"
    assert "Left out: 1 run with another backbone: vit-b16-mocov3 (--backbone shows them)." in table.footer


def test_tables_show_the_papers_names_and_programs_ours() -> None:
    rows = [hta_row(name, "cub") for name in ("partial", "vpt", "vpt:shallow", "gapt", "adapter:zero", "lora", "viapt", "zebra")]
    table = build_table(
        frame_of(*rows, hta_row("vpt", "cub", options={"prompt_length": 99}, minutes=1)), load_definition("insvp", "1")
    )
    text = terminal(table)
    for name in ("Partial-1", "MLP-3", "VPT", "VPT:shallow", "VPT (prompt_length=99)", "Yoo et al (GaPT)", "Adapter:zero", "LoRA",
                 "ViaPT", "zebra", "E2VPT", "DAM-VP"):  # fmt: skip
        assert re.search(rf"│ +{re.escape(name)} +│", text), name
    assert {"partial", "vpt:shallow", "adapter:zero"} <= set(pd.read_csv(io.StringIO(comma_separated(table)))["method"])
    named = {name for paper, number in TABLES for name in load_definition(paper, number).names.values()}
    assert {
        "Full",
        "Linear",
        "Bias",
        "Sidetune",
        "SSF",
        "SCT",
        "FacT",
        "SNF",
        "Bi-Adapter",
        "SPT",
        "EXPRESS",
        "iVPT",
        "GaPT",
    } <= named
    assert "│   vpt " in terminal(build_table(frame_of(make_row("vpt")), load_definition("vpbench", "1")))


def test_titles_name_the_papers_data_only_above_runs_of_it() -> None:
    own = build_table(frame_of(make_row("vpt", "photos", suite="custom")), load_definition("insvp", "2"))
    papers = build_table(
        frame_of(make_row("vpt", "vtab.svhn", suite="vtab1k", backbone="vit-b16-in21k")), load_definition("insvp", "2")
    )
    assert (own.title, papers.title) == ("Top-1 accuracy by group (%)", "VTAB-1k, top-1 accuracy by group (%)")
    for paper, number in TABLES:
        definition = load_definition(paper, number)
        assert definition.subject in definition.title
        assert not re.search("VTAB|FGVC|HTA|Swin|MoCo", definition.title_for(False))


def test_every_figure_has_a_column_or_is_known_to_have_none() -> None:
    strays = {
        (paper, number, figure.dataset)
        for paper, number in TABLES
        for figure in published_figures(load_definition(paper, number), paper)
        if figure.key.kind == "other"
    }
    assert strays == set()


def test_reference_files_name_papers_and_hold_plain_numbers() -> None:
    folder = files("vpbench.benchmarks") / "reference"
    for file in folder.iterdir():
        if file.name.endswith(".csv"):
            rows = list(csv.DictReader(file.read_text(encoding="utf-8").splitlines()))
            assert rows
            assert all(row["source"].startswith(("InsVP", "iVPT", "ViaPT")) and ".txt" not in row["source"] for row in rows)
            assert all(not row["value"] or float(row["value"]) >= 0 for row in rows)


def test_footnotes_are_of_figures_that_exist() -> None:
    for paper, number in TABLES:
        figures = published_figures(load_definition(paper, number), paper)
        for note in footnotes(paper, number):
            if note.on_cells() and len(note.tables) == 1:
                assert any(note.marks(figure) for figure in figures), note.text
    assert not footnotes("insvp", "99")


def test_printed_means_of_insvp_are_those_of_its_cells() -> None:
    figures = published_figures(load_definition("insvp", "1"), "insvp")
    values = pd.DataFrame([(f.method, str(f.key), f.value) for f in figures], columns=["method", "key", "value"])
    wide = values.pivot(index="method", columns="key", values="value").dropna()
    gap = wide.filter(like="dataset:").mean(axis=1) - wide["mean:datasets"]
    assert len(wide) == 17
    assert gap.abs().max() < 0.0501


# Formats


def test_web_is_accessible_and_escaped() -> None:
    text = web(reported([hta_row("linear", "dtd", 66.0), hta_row("vpt", "dtd", 70.0)]))
    assert text.count("<table>") == text.count("</table>") == text.count("<caption>")
    assert '<th scope="row">Linear</th><td><u>66.0</u></td>' in text
    assert "<strong>70.0</strong>" in text
    assert '<th colspan="11" scope="colgroup">Reported</th>' in text
    assert "63.2<sup>" in text
    assert "<script" not in text and "http" not in text
    odd = build_table(frame_of(make_row("vpt", '<b>&"')), load_definition("insvp", "1"))
    assert '<th scope="col">&lt;b&gt;&amp;&quot;</th>' in web(odd)


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_latex_compiles_as_is(tmp_path: Path) -> None:
    folder = fill(tmp_path / "runs", *grid(), hta_row("vpt", "cub")).folder
    make_report(1, results=folder, reported=True, out=tmp_path / "wide.tex")
    make_report(results=folder, statistics=True, out=tmp_path / "tests.tex")
    make_report(1, paper="vpbench", results=folder, out=tmp_path / "small.tex")
    text = r"\documentclass{article}\usepackage{booktabs}\begin{document}\input{wide}\input{tests}\input{small}\end{document}"
    (tmp_path / "all.tex").write_text(text, encoding="utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "all.tex"]
    made = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace")
    if "booktabs.sty' not found" in made.stdout:
        pytest.skip("the package booktabs is not installed")
    assert made.returncode == 0, made.stdout[-2000:]
    assert "Float too large" not in made.stdout


@pytest.mark.parametrize("format", [case(name, always=["tex"]) for name in ("terminal", "md", "tex", "html", "csv", "json")])
def test_same_store_same_bytes_with_everything_on(tmp_path: Path, format: str) -> None:
    folder = fill(tmp_path, *grid(), hta_row("vpt", "cub"), hta_row("linear", "cub", 70.0)).folder
    texts = {str(make_report(1, results=folder, reported=True, mix=True, suite="mini,hta", format=format)) for _ in range(2)}
    assert len(texts) == 1
    if format == "json":
        assert json.loads(texts.pop())["footer"]
