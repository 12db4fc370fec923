"""How a table is printed: golden renderings, and what must survive any content."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import pandas as pd
import pytest
from report_rows import fill, grid, make_row
from sweeps import case
from syrupy.assertion import SnapshotAssertion

from vpbench.core.errors import StoreError, UsageError
from vpbench.reporting.formats import RENDERERS, comma_separated, latex, markdown, terminal
from vpbench.reporting.make_report import make_report
from vpbench.reporting.table import Cell, Column, Row, Section, Table


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Two sections, a variant, a missing cell, a failure, numbers of different seeds."""
    rows = [row for row in grid() if (row["method"], row["dataset"]) != ("insvp", "flowers")]
    rows += [make_row("vpt", "digits", 0, 79.0, options={"prompt_length": 50}, minutes=9)]
    rows += [make_row("ivpt", "digits", 0, None), make_row("vpt", "digits", 0, 84.0, recipe={"epochs": 100}, git_dirty=True)]
    return fill(tmp_path / "runs", *rows).folder


@pytest.mark.parametrize("format", sorted(RENDERERS))
def test_golden(store: Path, snapshot: SnapshotAssertion, format: str) -> None:
    assert make_report(1, results=store, format=format) == snapshot


@pytest.mark.parametrize("format", [case(format, always=["html"]) for format in sorted(RENDERERS)])
def test_same_store_same_bytes(store: Path, format: str) -> None:
    assert make_report(1, results=store, format=format) == make_report("1", results=str(store), format=format)


ODD = r"50% of a_b & #1 {x} \y ~z^2 $ <w> * | `"


@pytest.fixture
def odd() -> Table:
    """Characters that mean something to Markdown or LaTeX, everywhere."""
    columns = (Column(ODD, ODD, "score"), Column("other", "plain", "score"))
    rows = (Row(ODD, ODD, (Cell("1.0 ± 0.1", 1.0, 0.1, 2, 1), Cell("-"))),)
    return Table("1", ODD, (Section(None, columns, rows, (ODD,), caption=ODD),), (ODD,))


def test_latex_escapes_and_is_balanced(odd: Table) -> None:
    text = latex(odd)
    escaped = (
        r"50\% of a\_b \& \#1 \{x\} \textbackslash{}y \textasciitilde{}z\textasciicircum{}2 \$ \textless{}w\textgreater{} * | `"
    )
    # Two floats with caption, section, group and row each; then the data set and its group, and two notes (one with its section).
    assert text.count(escaped) == 11
    body = re.sub(r"\\[\\{}%&#$_]", "", text.partition("\n")[2])
    assert not set("%#_") & set(body)
    assert body.count("{") == body.count("}")
    assert re.findall(r"\\begin\{(\w+)}", text) == re.findall(r"\\end\{(\w+)}", text)[::-1]
    assert r"\textbf{1.0 $\pm$ 0.1}" in text


def test_latex_rows_have_as_many_cells_as_columns(store: Path) -> None:
    text = str(make_report(results=store, format="tex"))
    for columns, body in re.findall(r"\\begin\{tabular}\{(l+r+)}(.*?)\\end\{tabular}", text, re.DOTALL):
        for line in body.splitlines():
            if line.endswith(r"\\"):
                spanned = sum(int(span) - 1 for span in re.findall(r"\\multicolumn\{(\d+)}", line))
                assert line.count("&") + 1 + spanned == len(columns)


def test_markdown_rows_have_as_many_cells_as_columns(odd: Table) -> None:
    rows = [line for line in markdown(odd).splitlines() if line.startswith("| ")]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in rows} == {4}


def test_csv_holds_the_numbers_and_no_marks(store: Path) -> None:
    text = str(make_report(results=store, format="csv"))
    frame = pd.read_csv(io.StringIO(text))
    table = json.loads(str(make_report(results=store, format="json")))
    numbers = [cell["mean"] for section in table["sections"] for row in section["rows"] for cell in row["cells"]]
    assert [None if pd.isna(mean) else mean for mean in frame["mean"]] == numbers
    missing = frame[(frame["method"] == "insvp") & (frame["column"] == "flowers")]
    assert missing[["mean", "std", "n"]].isna().all(axis=None)
    assert not re.search(r"\*|±|<u>", text)


def test_csv_of_odd_names_reads_back(odd: Table) -> None:
    assert pd.read_csv(io.StringIO(comma_separated(odd)))["method"].tolist() == [ODD, ODD]


def test_terminal_cuts_wide_tables_into_blocks(store: Path) -> None:
    text = str(make_report(results=store, width=72))
    boxes = [line for line in text.splitlines() if line[:1] in "┏┃┡│└"]
    assert max(map(len, boxes)) <= 72
    assert sum("sprites_location" in line for line in boxes) == 1
    assert sum("│   Linear " in line for line in boxes) > 1


def test_terminal_colours_replace_the_marks(odd: Table) -> None:
    assert "\x1b[1m" in terminal(odd, colour=True)
    assert "1.0 ± 0.1 *" in terminal(odd)
    assert "\x1b" not in terminal(odd)


def test_files_are_written_with_the_format_of_their_name(store: Path, tmp_path: Path) -> None:
    assert make_report(results=store, out=tmp_path / "new" / "one.tex") == [tmp_path / "new" / "one.tex"]
    assert r"\toprule" in (tmp_path / "new" / "one.tex").read_text(encoding="utf-8")
    assert make_report(results=store, format="md", out=tmp_path) == [tmp_path / "insvp_table1.md"]
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_a_file_that_cannot_be_written_is_one_line(store: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for plot, out in ((None, tmp_path / "file" / "t.md"), ("seeds", tmp_path / "file" / "figures")):
        with pytest.raises(UsageError, match=r"cannot be written: .*\. Choose another place with --out\.$"):
            make_report(plot=plot, results=store, out=out)


def test_an_empty_store_says_how_to_fill_it(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"there is no results folder .*nowhere.*vpbench run "):
        make_report(results=tmp_path / "nowhere")


def test_options_that_cannot_be(store: Path) -> None:
    with pytest.raises(UsageError, match="Did you mean 'md'"):
        make_report(results=store, format="mdd")
    with pytest.raises(UsageError, match="not both"):
        make_report(1, "tsne", results=store)
    with pytest.raises(UsageError, match="for tables"):
        make_report(plot="tsne", results=store, format="md")
