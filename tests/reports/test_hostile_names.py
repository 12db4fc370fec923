"""Hostile names in a results folder through every output: nothing fails, nothing is interpreted, no file lies outside."""

from __future__ import annotations

import csv
import io
import json
import re
import warnings
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd
import pytest
from hostile_names import HOSTILE, OBEYED
from matplotlib.figure import Figure
from matplotlib.text import Text
from report_rows import fill, make_row

from vpbench.core.escaping import as_json, for_html, for_latex, for_markdown, for_spreadsheet, one_line, visible
from vpbench.core.plugins import Registry
from vpbench.reporting.build_table import build_table
from vpbench.reporting.definition import leaderboard
from vpbench.reporting.figure_text import PLAIN, escape_text
from vpbench.reporting.formats import RENDERERS
from vpbench.reporting.frame import load_rows
from vpbench.reporting.make_report import make_report
from vpbench.reporting.page import write_page
from vpbench.reporting.plot_registry import plot_registry
from vpbench.store.exporting import write_export
from vpbench.store.store import Store

CURVE = "phase,epoch,epochs,lr,train_loss,val_acc1\n{0},1,2,0.1,2.5,10\n{0},2,2,0.1,1.5,40\n"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Every hostile name as a data set of its own, and some of them as everything else."""
    rows = [make_row("linear", name, acc1=80.0) for name in HOSTILE] + [make_row("vpt", name) for name in HOSTILE[:6]]
    for name in HOSTILE[:30:3]:
        text = json.dumps({name: name})
        rows.append(make_row(name, HOSTILE[0], options={name: name}, recipe_source=name, status="ok"))
        rows.append(make_row("vpt", name, 1, None, error=f"Traceback\n{name}", recipe=text and {"optimizer": name}))
    for place, name in enumerate(HOSTILE[:6:2]):
        rows.append(make_row("linear", name, backbone=name, suite=name, dataset_group=name, weights=name, device_name=name))
        rows.append(make_row("vpt", name, backbone=name, suite=name, dataset_group=name, weights=name, minutes=place))
    found = fill(tmp_path_factory.mktemp("hostile") / "runs", *rows)
    for row in [row for row in rows if row["backbone"] == HOSTILE[2]]:
        phase = '"' + HOSTILE[3] + '"'
        found.write_artefact(row["run_id"], "curve.csv", lambda path, phase=phase: path.write_text(CURVE.format(phase)) and None)
    return found


@pytest.fixture(scope="module")
def texts(store: Store) -> dict[str, str]:
    """The leaderboard in every format."""
    table = build_table(load_rows(store), leaderboard())
    return {kind: render(table) for kind, render in RENDERERS.items()}


def test_no_format_has_control_characters(texts: dict[str, str]) -> None:
    for kind, text in texts.items():
        assert OBEYED.findall(text) == [], kind


def test_terminal_keeps_markup_as_text(texts: dict[str, str]) -> None:
    for name in ("[red]rich[/red]", ":smile:", r"\x1b[31mred\x1b[0m", r"two\nlines"):
        assert name in texts["terminal"]


def test_markdown_tables_stay_tables(texts: dict[str, str]) -> None:
    lines = texts["md"].splitlines()
    blocks = re.findall(r"(?:^\|.*\n)+", texts["md"], flags=re.MULTILINE)
    assert blocks
    for block in blocks:
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}) == 1
    assert not [line for line in lines if line.startswith(("# ", "lines", "1. "))]
    assert "http://" not in texts["md"] and "https://" not in texts["md"] and "<script" not in texts["md"].replace(r"\<", "")


def test_latex_has_no_command_of_a_name(texts: dict[str, str]) -> None:
    text = texts["tex"]
    assert not re.search(r"\\(input|foo|frac)(?![a-z])", text)
    body = re.sub(r"\\[\\{}%&#$_]|\$\\(pm|times)\$", "", text.partition("\n")[2])
    assert not set("%#_$") & set(body)
    assert body.count("{") == body.count("}")
    assert not re.search(r"^[\[*]", text, flags=re.MULTILINE), "read as an argument of the row's end before it"


def test_csv_has_no_formulas(texts: dict[str, str], store: Store, tmp_path: Path) -> None:
    write_export(store.read().table, tmp_path / "rows.csv")
    for text in (texts["csv"], (tmp_path / "rows.csv").read_text(encoding="utf-8")):
        head, *lines = csv.reader(io.StringIO(text))
        assert {len(line) for line in lines} == {len(head)}
        cells = {cell for line in lines for cell in line}
        assert not [cell for cell in cells if cell.lstrip().startswith(("=", "+", "@")) or re.match(r"\s*-(?![\d.]+$)", cell)]
    assert "'=cmd|'/c calc'!A0" in {line[4] for line in csv.reader(io.StringIO(texts["csv"]))}


def test_json_keeps_names_as_they_are(texts: dict[str, str]) -> None:
    sections = json.loads(texts["json"])["sections"]
    assert set(HOSTILE) <= {column["name"] for section in sections for column in section["columns"]}


class Tags(HTMLParser):
    """The tags and handlers of a page, and the names of its attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: set[str] = set()
        self.sources: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found |= {tag, *(name for name, _ in attrs if name.startswith("on"))}
        self.sources += [value or "" for name, value in attrs if name in ("src", "href")]


def test_html_table(texts: dict[str, str]) -> None:
    tags = {"section", "h2", "table", "caption", "thead", "tbody", "tr", "th", "td", "p", "ul", "li", "strong", "u", "sup"}
    assert Tags(texts["html"]).found <= tags


@pytest.mark.sweep
def test_page_and_figures(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names of a data set and of a backbone are in a page, and in the names of its files; three kinds of figures, for speed."""
    chosen = [(name, plot_registry().get(name)) for name in ("pareto", "seeds", "curves")]
    monkeypatch.setattr(Registry, "working", lambda _: iter(chosen))
    (tmp_path / "in").mkdir()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        write_page(store.folder, tmp_path / "in" / "page", method=["linear", "vpt"], dataset=[HOSTILE[2]], backbone=HOSTILE[2])
    assert not [text for warning in caught if "cannot be drawn" in (text := str(warning.message))]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in"]
    assert sorted(path.name for path in (tmp_path / "in").iterdir()) == ["page"]
    drawn = {path.parent.name for path in (tmp_path / "in" / "page" / "figures").rglob("*.png")}
    assert drawn == {"pareto", "seeds", "curves"}
    for path in (tmp_path / "in" / "page").rglob("*.html"):
        text = path.read_text(encoding="utf-8")
        assert OBEYED.findall(text) == [], path
        tags = Tags(text)
        assert not [name for name in tags.found if name.startswith("on")]
        assert not [source for source in tags.sources if source.startswith(("http", "/", "javascript"))]
        assert "alert(1)</script>" not in text


def test_figures_draw_text_as_it_is() -> None:
    with matplotlib.rc_context(PLAIN):
        figure = Figure()
        axes = figure.subplots(1, 2)
        axes[0].set_title("$x$ \x00")
        axes[0].set_xticks([0, 1], ["$a$", "\x1b[1m"])
        axes[1].set_xscale("log")
        axes[1].set_xlim(1, 1e4)
        escape_text(figure)
        figure.draw_without_rendering()
    assert axes[0].get_title() == r"$x$ \x00"
    assert [label.get_text() for label in axes[0].get_xticklabels()] == ["$a$", r"\x1b[1m"]
    assert {"1", "100", "10000"} <= {label.get_text() for label in axes[1].get_xticklabels()}
    assert not any(text.get_parse_math() for text in figure.findobj(Text) if isinstance(text, Text))


@pytest.mark.sweep
def test_figures_start_from_matplotlibs_defaults(tmp_path: Path) -> None:
    """A user's matplotlibrc asks for LaTeX, which would be an error where there is none, and for other sizes everywhere."""
    folder = fill(tmp_path / "runs", *(make_row(method, name) for method in ("linear", "vpt") for name in ("a", "b"))).folder

    def drawn(place: str) -> dict[str, bytes]:
        made = make_report(plot="heatmap", results=folder, out=tmp_path / place)
        assert isinstance(made, list)
        return {path.name: path.read_bytes() for path in made}

    plain = drawn("plain")
    with matplotlib.rc_context({"text.usetex": True, "font.family": "monospace", "axes.facecolor": "red", "savefig.dpi": 30}):
        assert drawn("own") == plain
        assert matplotlib.rcParams["text.usetex"] is True


def test_escaping() -> None:
    assert visible("a\x1bb\nc\td\x00\u202e\ud800") == "a\\x1bb\nc\td\\x00\\u202e\\ud800"
    assert one_line("a\nb\tc\r") == r"a\nb\tc\r"
    assert for_markdown("a|b_c [d](e) $x$ ~f~ <g> &h") == r"a\|b\_c \[d\](e) \$x\$ \~f\~ \<g\> \&h"
    assert for_markdown("# a") == r"\# a" and for_markdown("1. a") == r"1\. a" and for_markdown("-") == "-"
    assert for_markdown("see https://a.b, www.c.d :tada: at 10:30: x") == r"see https\://a.b, www\.c.d \:tada: at 10:30: x"
    assert for_latex(r"[a] \b_1 50% ± 2") == r"{[}a] \textbackslash{}b\_1 50\% $\pm$ 2"
    assert for_spreadsheet("=1") == "'=1" and for_spreadsheet(" @x") == "' @x" and for_spreadsheet("a=b") == "a=b"
    assert for_html("<a\x00 b='c'>") == r"&lt;a\x00 b=&#x27;c&#x27;&gt;"
    odd: dict[str, Any] = {name: name for name in HOSTILE}
    assert json.loads(as_json(odd)) == odd and not OBEYED.search(as_json(odd))


def test_csv_of_rows_can_be_read_again(store: Store, tmp_path: Path) -> None:
    write_export(store.read().table, tmp_path / "rows.csv")
    assert set(pd.read_csv(tmp_path / "rows.csv")["run_id"]) == set(store.load()["run_id"])
