"""The tables of the papers: their definitions, their printed figures, and how both stand beside runs."""

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
from typing import Any

import pandas as pd
import pytest
from report_rows import fill, frame_of, grid, labels_of, make_row
from sweeps import case, some

from vpbench.core.errors import UsageError
from vpbench.data.catalog import dataset_card
from vpbench.models.registry import resolve_method
from vpbench.planning.suites import suite_card
from vpbench.reporting.build_table import build_table
from vpbench.reporting.definition import load_definition
from vpbench.reporting.formats import comma_separated, terminal, web
from vpbench.reporting.frame import Filters
from vpbench.reporting.keys import RowKey
from vpbench.reporting.make_report import make_report
from vpbench.reporting.published import footnotes, our_backbones, published_figures, with_reported
from vpbench.reporting.table import Cell, Section, Table

TABLES = [("insvp", str(n)) for n in range(1, 6)] + [("ivpt", str(n)) for n in range(1, 15)] + [("viapt", "1")]
B16 = {"backbone": "vit-b16-in21k", "weights": "file", "suite": "hta"}


def hta_row(method: str, dataset: str, acc1: float | None = 80.0, seed: int = 0, **columns: Any) -> dict[str, Any]:
    return make_row(method, dataset, seed, acc1, **{**B16, "dataset_group": dataset_card(dataset).group, **columns})


def reported(rows: list[dict[str, Any]], paper: str = "insvp", number: str = "1") -> Table:
    definition = load_definition(paper, number)
    runs = frame_of(*rows) if rows else pd.DataFrame()
    return with_reported(build_table(runs, definition), definition, paper)


def cell(section: Section, label: str, kind: str, name: str) -> Cell:
    row = section.rows[labels_of(section).index(label)]
    place = next(i for i, column in enumerate(section.columns) if (column.kind, column.name) == (kind, name))
    return row.cells[place]


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


# Beside runs


def test_reported_columns_stand_apart_from_measured_ones() -> None:
    rows = [hta_row(method, "cub", acc1) for method, acc1 in (("linear", 86.0), ("vpt", 80.0))]
    plain = build_table(frame_of(*rows), load_definition("insvp", "1"))
    section = reported(rows).sections[0]
    assert cell(section, "linear", "score", "cub") == cell(plain.sections[0], "linear", "score", "cub")
    assert cell(section, "linear", "reported", "cub") == Cell("85.3", 85.3)
    assert cell(section, "linear", "gap", "cub") == Cell("+0.7", 0.7)
    assert cell(section, "vpt", "gap", "cub").text == "-8.5"
    for row in section.rows:
        for column, own in zip(section.columns, row.cells, strict=True):
            assert column.kind not in ("reported", "gap") or own.rank is None
    theirs = [(column.group, column.name) for column in section.columns if column.kind in ("reported", "gap")]
    assert theirs[0] == ("Reported", "cub") and theirs[-1] == ("Gap", "cub")
    assert len(theirs) == 12, "ten data sets and a mean, and one gap"


def test_methods_without_a_run_have_reported_numbers_alone() -> None:
    section = reported([hta_row("vpt", "cub")]).sections[0]
    assert cell(section, "transhp", "score", "cub") == cell(section, "transhp", "gap", "cub") == Cell()
    assert cell(section, "transhp", "reported", "cub").text == "87.1"
    assert {row.group for row in section.rows if row.key == RowKey("transhp")} == {"Prompts"}


def test_a_variant_or_another_protocol_has_no_reported_number() -> None:
    rows = [hta_row("vpt", "cub"), hta_row("vpt", "dtd"), hta_row("vpt", "cub", options={"prompt_length": 99}, minutes=5)]
    section = reported(rows).sections[0]
    assert cell(section, "vpt (prompt_length=99)", "reported", "cub") == Cell()
    few = [hta_row("vpt", "cub", suite="fewshot-16")]
    first, *others = reported(few).sections
    assert all(column.kind != "reported" for column in first.columns)
    assert others[0].caption == "Reported by the paper: ViT-B/16, supervised ImageNet-21k"


def test_vtab_cells_in_a_full_data_table_are_footnoted() -> None:
    table = reported([hta_row("linear", "dtd"), hta_row("linear", "cub")])
    (letter,) = cell(table.sections[0], "linear", "reported", "dtd").notes
    assert cell(table.sections[0], "linear", "reported", "cub").notes == ()
    (line,) = [line for line in table.footer if line.startswith(f"[{letter}] ")]
    assert "VTAB-1k (1000 training images)" in line


def test_figures_of_another_backbone_are_never_beside_ours() -> None:
    """InsVP's Table 1 has one method on MoCo v3: a section of its own; and two on backbones of others: a footnote."""
    table = reported([hta_row("vpt", "cub")])
    assert [section.caption for section in table.sections[1:]] == ["Reported by the paper: ViT-B/16, MoCo v3"]
    assert labels_of(table.sections[1]) == ["gapt"]
    notes = cell(table.sections[0], "ilm_vp", "reported", "cub").notes
    assert any(line.startswith(f"[{letter}] On ResNeXt-101") for letter in notes for line in table.footer)
    assert our_backbones("ViT-B/16", "MoCo v3") == ("vit-b16-mocov3",)
    assert our_backbones("ViT-B/32", "none") == ()


@pytest.mark.parametrize(
    ("number", "method", "printed", "told"),
    [("1", "full", "68.90", "68.97"), ("1", "lora", "74.63", "0.035"), ("14", "vpt", "71.97", "71.96")],
)
def test_known_contradictions_of_ivpt(number: str, method: str, printed: str, told: str) -> None:
    table = reported([], "ivpt", number)
    found = cell(table.sections[0], method, "reported", "Mean of groups")
    assert found.text == printed
    assert any(told in line for line in table.footer for letter in found.notes if line.startswith(f"[{letter}]"))


def test_a_suspicious_line_of_swin_is_footnoted() -> None:
    (swin,) = [section for section in reported([], "ivpt", "13").sections if "Swin-B" in section.caption]
    assert cell(swin, "ivpt", "reported", "vtab.dmlab").notes
    assert cell(swin, "vpt", "reported", "vtab.sun397").text == "-"


def test_costs_of_another_machine_have_no_gap() -> None:
    rows = [hta_row("vpt", name, suite="vtab1k", latency_ms_p50=5.0) for name in suite_card("vtab1k").datasets]
    section = reported(rows, "ivpt", "8").sections[0]
    assert cell(section, "vpt", "reported", "Latency (ms)").text == "249.80"
    gaps = {column.name for column in section.columns if column.kind == "gap"}
    assert gaps == {"Mean of 3 groups", "Params (M)", "MACs (G)"}


def test_the_gap_of_means_over_vtab() -> None:
    rows = [hta_row("linear", name, suite="vtab1k", recipe={"epochs": 100}) for name in suite_card("vtab1k").datasets]
    section = reported(rows, "ivpt", "1").sections[0]
    label = "linear"
    assert cell(section, label, "gap", "Mean of 3 groups").mean == pytest.approx(80 - 57.67)
    assert cell(section, label, "gap", "Mean of natural").text == "+11.1"
    assert cell(section, label, "gap", "vtab.svhn").text == "+43.4"
    assert all(column.name != "Mean of 19" for column in section.columns if column.kind == "reported")


def test_without_any_run_the_papers_figures_remain(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"no runs in .*: only what the paper reports is shown"):
        text = str(make_report(1, results=tmp_path, reported=True))
    assert "No run here is comparable with these figures." in text
    with pytest.raises(UsageError, match="nothing is published for table 1 of vpbench: leave out --reported"):
        make_report(1, results=fill(tmp_path, make_row()).folder, paper="vpbench", reported=True)


def test_a_table_of_another_task(tmp_path: Path) -> None:
    folder = fill(tmp_path, make_row()).folder
    text = str(make_report(7, paper="ivpt", results=folder))
    assert "No run here is of segmentation. To fill this table: vpbench run --suite ade20k" in text and "80.0" not in text
    assert "35.12" in str(make_report(7, paper="ivpt", results=folder, reported=True))


def test_csv_never_mixes_reported_and_measured(tmp_path: Path) -> None:
    store = fill(tmp_path, hta_row("linear", "cub", 86.0))
    frame = pd.read_csv(make_report(1, results=store.folder, reported=True, out=tmp_path / "t.csv")[0])  # type: ignore[arg-type]
    cub = frame[frame["column"] == "cub"].set_index("method")
    assert cub.loc["linear", ["mean", "reported", "gap"]].tolist() == pytest.approx([86.0, 85.3, 0.7])
    assert pd.isna(cub.loc["transhp", "mean"])
    assert "reported" not in comma_separated(build_table(store.load(), load_definition("insvp", "1"))).splitlines()[0]


# Rows by options


def ivpt_row(acc1: float, minutes: int, **options: Any) -> dict[str, Any]:
    return make_row("ivpt", acc1=acc1, minutes=minutes, options={"structure": "cdc", "da": True, "ar": "topk", **options})


def test_lines_take_runs_by_their_options() -> None:
    """Asked for as a preset or by options, the components are the same row; what else differs is said behind it."""
    preset = {**ivpt_row(84.0, 1, da=False, ar="none"), "method": "ivpt:cdc"}
    rows = [make_row("vpt"), ivpt_row(90.0, 0), preset, ivpt_row(86.0, 2, ar="none"), make_row("insvp")]
    rows += [ivpt_row(85.0, 3, da=False, ar="none", prompt_length=5), make_row("vpt:shallow")]
    table = build_table(frame_of(*rows), load_definition("ivpt", "2"))
    (section,) = table.sections
    assert labels_of(section) == ["VPT", "CDC", "CDC (prompt_length=5)", "CDC + DA", "CDC + DA + AR"]
    assert cell(section, "CDC", "mean", "Mean of natural").mean == 84
    assert "Left out: 2 runs of other methods or options." in table.footer


def test_missing_lines_are_named_with_the_command() -> None:
    table = build_table(
        frame_of(make_row("vpt", "vtab.svhn", suite="vtab1k", backbone="vit-b16-in21k")), load_definition("ivpt", "2")
    )
    assert "No run here of CDC, CDC + DA, CDC + DA + AR. To fill this table: vpbench run --suite vtab1k" in "\n".join(
        table.footer
    )
    nothing = build_table(frame_of(make_row("insvp")), load_definition("ivpt", "4"))
    assert nothing.sections == ()
    assert nothing.footer[0].startswith(
        "No run here is of no AR or AR of all patch tokens or AR of the top k. To fill this table: "
    )


def test_the_papers_suite_is_shown_alone_once_it_has_runs() -> None:
    rows = [hta_row("vpt", "cub"), make_row("vpt", "digits")]
    table = build_table(frame_of(*rows), load_definition("insvp", "1"))
    assert [section.backbone for section in table.sections] == ["vit-b16-in21k"]
    assert "Left out: 1 run with another suite: mini (--suite shows them)." in table.footer


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
