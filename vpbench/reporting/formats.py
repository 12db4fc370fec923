"""A table as text: for a terminal, GitHub, LaTeX, a spreadsheet, or a program."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import groupby
from types import MappingProxyType

import pandas as pd
from rich.console import Console
from rich.table import Table as Grid
from rich.text import Text

from vpbench.reporting.table import Cell, Column, Row, Section, Table

_LEGEND = "best of a column within its section"


def _grouped(rows: Sequence[Row]) -> Iterator[tuple[str, list[Row]]]:
    return ((group, list(members)) for group, members in groupby(rows, key=lambda row: row.group))


def _column_groups(columns: Sequence[Column]) -> list[tuple[str, int]]:
    """Headings above the columns and how many each spans; none when all data sets are of one group."""
    spans = [(group, len(list(members))) for group, members in groupby(columns, key=lambda column: column.group)]
    return spans if len({group for group, _ in spans if group}) > 1 else []


# Terminal


def terminal(table: Table, width: int | None = None, colour: bool = False) -> str:
    """Boxed tables. Wider ones than ``width`` characters are cut into blocks of columns.

    Args:
        colour: bold and underlined by escape codes; marks ``*`` and ``+`` behind the numbers otherwise.
    """
    stream = io.StringIO()
    console = Console(
        file=stream, width=width or 10_000, force_terminal=colour, color_system="standard" if colour else None,
        highlight=False, markup=False, emoji=False, legacy_windows=False,
    )  # fmt: skip
    console.print(Text(f"Table {table.number}: {table.title}", style="bold"))
    for section in table.sections:
        console.print(Text(f"\n{section.title}", style="italic"))
        for columns in _blocks(section, width, colour):
            console.print(_grid(section, columns, colour))
        for note in section.notes:
            console.print(Text(note, style="dim"))
    console.print()
    for line in [*_terminal_legend(table, colour), *table.footer]:
        console.print(Text(line, style="dim"))
    return "\n".join(line.rstrip() for line in stream.getvalue().splitlines()) + "\n"


def _terminal_legend(table: Table, colour: bool) -> list[str]:
    return [f"Bold: {_LEGEND}; underlined: second." if colour else f"* {_LEGEND}, + second."] if table.ranked else []


def _blocks(section: Section, width: int | None, colour: bool) -> Iterator[list[int]]:
    """Positions of columns that fit beside the labels, block by block."""
    room = (width or 10_000) - max(len(text) for row in section.rows for text in (f"  {row.label}", row.group)) - 4
    block: list[int] = []
    used = 0
    for index, column in enumerate(section.columns):
        texts = [column.group, column.name, *(_terminal_text(row.cells[index], colour) for row in section.rows)]
        size = max(len(text) for text in texts) + 3
        if block and used + size > room:
            yield block
            block, used = [], 0
        block, used = [*block, index], used + size
    yield block


def _grid(section: Section, columns: Sequence[int], colour: bool) -> Grid:
    chosen = [section.columns[index] for index in columns]
    grid = Grid(show_edge=True)
    grid.add_column("", no_wrap=True)
    headed = bool(_column_groups(section.columns))
    for column in chosen:
        grid.add_column(Text(f"{column.group}\n{column.name}" if headed else column.name), justify="right", no_wrap=True)
    for group, rows in _grouped(section.rows):
        grid.add_row(Text(group, style="italic"))
        for row in rows:
            grid.add_row(Text(f"  {row.label}"), *(_terminal_cell(row.cells[index], colour) for index in columns))
    return grid


def _terminal_text(cell: Cell, colour: bool) -> str:
    return cell.text if colour else cell.text + {1: " *", 2: " +", None: "  "}[cell.rank]


def _terminal_cell(cell: Cell, colour: bool) -> Text:
    style = {1: "bold", 2: "underline", None: ""}[cell.rank] if colour else ""
    return Text(_terminal_text(cell, colour), style=style)


# GitHub Markdown


def markdown(table: Table) -> str:
    """GitHub's tables; underlining is HTML, as Markdown has none."""
    lines = [f"### Table {_md(table.number)}: {_md(table.title)}"]
    for section in table.sections:
        lines += ["", f"**{_md(section.title)}**", "", *_md_section(section), "", *(f"- {_md(note)}" for note in section.notes)]
    legend = [f"Bold: {_LEGEND}; underlined: second."] if table.ranked else []
    return "\n".join([*lines, "", "Notes:", "", *(f"- {_md(line)}" for line in [*legend, *table.footer])]) + "\n"


def _md_section(section: Section) -> Iterator[str]:
    headed = bool(_column_groups(section.columns))
    names = [f"{_md(c.group)}<br>{_md(c.name)}" if headed and c.group else _md(c.name) for c in section.columns]
    yield _md_row(["Method", *names])
    yield _md_row(["---", *("---:" for _ in names)])
    for group, rows in _grouped(section.rows):
        yield _md_row([f"*{_md(group)}*", *("" for _ in names)])
        yield from (_md_row([_md(row.label), *map(_md_cell, row.cells)]) for row in rows)


def _md_row(texts: Sequence[str]) -> str:
    return f"| {' | '.join(texts)} |"


def _md_cell(cell: Cell) -> str:
    return {1: f"**{cell.text}**", 2: f"<u>{cell.text}</u>", None: cell.text}[cell.rank]


def _md(text: str) -> str:
    return re.sub(r"([\\|*_`<>\[\]])", r"\\\1", text)


# LaTeX

_TEX_ESCAPES = {
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "±": r"$\pm$", "\u00d7": r"$\times$", "\u2013": "--",
}  # fmt: skip


def latex(table: Table) -> str:
    r"""A ``table`` environment for ``\input``; the document needs the package booktabs and nothing else."""
    lines = [r"% needs \usepackage{booktabs}", r"\begin{table}", r"\centering", r"\small", rf"\caption{{{_tex(table.title)}}}"]
    for section in table.sections:
        lines += [rf"\par\medskip\textit{{{_tex(section.title)}}}\par\smallskip", *_tex_section(section)]
        lines += _tex_notes(section.notes)
    legend = [f"Bold: {_LEGEND}; underlined: second."] if table.ranked else []
    return "\n".join([*lines, *_tex_notes([*legend, *table.footer]), r"\end{table}"]) + "\n"


def _tex_section(section: Section) -> Iterator[str]:
    count = len(section.columns)
    yield rf"\begin{{tabular}}{{l{'r' * count}}}"
    yield r"\toprule"
    yield from _tex_column_groups(section.columns)
    yield _tex_row(["Method", *(_tex(column.name) for column in section.columns)])
    for group, rows in _grouped(section.rows):
        yield r"\midrule"
        yield rf"\multicolumn{{{count + 1}}}{{l}}{{\textit{{{_tex(group)}}}}} \\"
        yield from (_tex_row([_tex(row.label), *map(_tex_cell, row.cells)]) for row in rows)
    yield r"\bottomrule"
    yield r"\end{tabular}"


def _tex_column_groups(columns: Sequence[Column]) -> Iterator[str]:
    groups = _column_groups(columns)
    if not groups:
        return
    yield _tex_row(["", *(rf"\multicolumn{{{span}}}{{c}}{{{_tex(group)}}}" for group, span in groups)])
    first = 2
    for group, span in groups:
        if group:
            yield rf"\cmidrule(lr){{{first}-{first + span - 1}}}"
        first += span


def _tex_row(texts: Sequence[str]) -> str:
    return rf"{' & '.join(texts)} \\"


def _tex_cell(cell: Cell) -> str:
    text = _tex(cell.text)
    return {1: rf"\textbf{{{text}}}", 2: rf"\underline{{{text}}}", None: text}[cell.rank]


def _tex_notes(lines: Sequence[str]) -> list[str]:
    return [r"\par\smallskip", r"{\raggedright\footnotesize", *(rf"{_tex(line)}\par" for line in lines), "}"]


def _tex(text: str) -> str:
    return "".join(_TEX_ESCAPES.get(character, character) for character in text)


# Numbers


def comma_separated(table: Table) -> str:
    """One line per cell, nine decimals, without title, marks and footer; missing numbers are empty.

    Columns: section, group, method, column_group, column, mean, std, n.
    """
    cells = [
        (section.title, row.group, row.label, column.group, column.name, cell.mean, cell.std, cell.n)
        for section in table.sections
        for row in section.rows
        for column, cell in zip(section.columns, row.cells, strict=True)
    ]
    names = ["section", "group", "method", "column_group", "column", "mean", "std", "n"]
    return str(pd.DataFrame(cells, columns=names).astype({"n": "Int64"}).to_csv(index=False, lineterminator="\n"))


def as_json(table: Table) -> str:
    """The table as it is, marks and text included."""
    return json.dumps(asdict(table), indent=2, ensure_ascii=False) + "\n"


RENDERERS: Mapping[str, Callable[[Table], str]] = MappingProxyType(
    {"terminal": terminal, "md": markdown, "tex": latex, "csv": comma_separated, "json": as_json}
)
SUFFIXES: Mapping[str, str] = MappingProxyType({"terminal": ".txt", "md": ".md", "tex": ".tex", "csv": ".csv", "json": ".json"})
