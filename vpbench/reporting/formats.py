"""A table as text: for a terminal, GitHub, LaTeX, a web page, a spreadsheet, or a program. All text of keys is made here."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from types import MappingProxyType
from typing import Any, Literal

import pandas as pd
from rich.table import Table as Grid
from rich.text import Text

from vpbench.core.escaping import as_json, for_html, for_spreadsheet, one_line
from vpbench.core.escaping import for_latex as _tex
from vpbench.core.escaping import for_markdown as _md
from vpbench.core.terminal import Terminal
from vpbench.reporting.keys import RowKey
from vpbench.reporting.row_labels import row_label, row_labels, section_titles
from vpbench.reporting.table import EMPTY, Cell, Table

# A table with text for its keys


@dataclass(frozen=True)
class _Column:
    group: str
    name: str
    kind: str
    key: str


@dataclass(frozen=True)
class _Row:
    group: str
    label: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class _Section:
    title: str
    columns: tuple[_Column, ...]
    rows: tuple[_Row, ...]
    notes: tuple[str, ...]
    backbone: str | None
    suites: tuple[str, ...]
    head: str


def _printed(table: Table, names: Mapping[str, str], shown: Callable[[str], str] = one_line) -> list[_Section]:
    """The sections with titles, headings and labels in place of keys, each as ``shown`` writes it; ``names`` as in
    :class:`Table`."""
    titles = section_titles({*(section.key for section in table.sections if section.key), *table.others})
    found = []
    for section in table.sections:
        title = shown(": ".join(filter(None, (section.caption, titles[section.key] if section.key else ""))))
        labels = row_labels((row.key for row in section.rows), names)
        columns = [
            _Column(shown(column.group), shown(row_label(key)), column.kind, shown(row_label(key)))
            if isinstance(key := column.key, RowKey)
            else _Column(shown(column.group), shown(column.name), column.kind, shown(str(key or "")))
            for column in section.columns
        ]
        rows = tuple(_Row(shown(row.group), shown(labels[row.key]), row.cells) for row in section.rows)
        notes = tuple(map(shown, section.notes))
        found.append(_Section(title, tuple(columns), rows, notes, section.backbone, section.suites, section.head))
    return found


def _grouped(rows: Sequence[_Row]) -> Iterator[tuple[str, list[_Row]]]:
    return ((group, list(members)) for group, members in groupby(rows, key=lambda row: row.group))


def _column_groups(columns: Sequence[_Column]) -> list[tuple[str, int]]:
    """Headings above the columns and how many each spans; none when all data sets are of one group."""
    spans = [(group, len(list(members))) for group, members in groupby(columns, key=lambda column: column.group)]
    return spans if len({group for group, _ in spans if group}) > 1 else []


# Terminal


def terminal(table: Table, width: int | None = None, colour: bool = False) -> str:
    """Boxed tables. Wider ones than ``width`` characters are cut into blocks of columns.

    Args:
        colour: bold and underlined by escape codes; marks ``*`` and ``+`` after the numbers otherwise.
    """
    stream = io.StringIO()
    # Without force_jupyter=False the table would go to a notebook's display, and the text would be empty.
    console = Terminal(
        file=stream, width=width or 10_000, force_terminal=colour, color_system="standard" if colour else None,
        force_jupyter=False, legacy_windows=False,
    )  # fmt: skip
    console.print(Text(one_line(table.caption), style="bold"))
    for section in _printed(table, table.names):
        console.print(Text(f"\n{section.title}", style="italic"))
        for columns in _blocks(section, width, colour):
            console.print(_grid(section, columns, colour))
        for note in section.notes:
            console.print(Text(note, style="dim"))
    console.print()
    for line in [*_terminal_legend(table, colour), *table.footer]:
        console.print(Text(one_line(line), style="dim"))
    return "\n".join(line.rstrip() for line in stream.getvalue().splitlines()) + "\n"


def _terminal_legend(table: Table, colour: bool) -> list[str]:
    return [f"Bold: {table.legend}; underlined: second." if colour else f"* {table.legend}, + second."] if table.ranked else []


def _blocks(section: _Section, width: int | None, colour: bool) -> Iterator[list[int]]:
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


def _grid(section: _Section, columns: Sequence[int], colour: bool) -> Grid:
    chosen = [section.columns[index] for index in columns]
    grid = Grid(show_edge=True)
    grid.add_column("", no_wrap=True)
    headed = bool(_column_groups(section.columns))
    for column in chosen:
        justify: Literal["left", "right"] = "left" if column.kind == "words" else "right"
        grid.add_column(Text(f"{column.group}\n{column.name}" if headed else column.name), justify=justify, no_wrap=True)
    for group, rows in _grouped(section.rows):
        if group:
            grid.add_row(Text(group, style="italic"))
        for row in rows:
            grid.add_row(Text(f"  {row.label}"), *(_terminal_cell(row.cells[index], colour) for index in columns))
    return grid


def _terminal_text(cell: Cell, colour: bool) -> str:
    text = _noted(cell)
    return text if colour else text + {1: " *", 2: " +", None: "  "}[cell.rank]


def _noted(cell: Cell) -> str:
    return f"{cell.text} [{','.join(cell.notes)}]" if cell.notes else cell.text


def _terminal_cell(cell: Cell, colour: bool) -> Text:
    style = {1: "bold", 2: "underline", None: ""}[cell.rank] if colour else ""
    return Text(_terminal_text(cell, colour), style=style)


# GitHub Markdown


def markdown(table: Table) -> str:
    """GitHub's tables; underlining is HTML, as Markdown has none."""
    lines = [f"### {_md(table.caption)}"]
    for section in _printed(table, table.names):
        lines += ["", f"**{_md(section.title)}**", "", *_md_section(section), "", *(f"- {_md(note)}" for note in section.notes)]
    legend = [f"Bold: {table.legend}; underlined: second."] if table.ranked else []
    return "\n".join([*lines, "", "Notes:", "", *(f"- {_md(line)}" for line in [*legend, *table.footer])]) + "\n"


def _md_section(section: _Section) -> Iterator[str]:
    headed = bool(_column_groups(section.columns))
    names = [f"{_md(c.group)}<br>{_md(c.name)}" if headed and c.group else _md(c.name) for c in section.columns]
    yield _md_row([_md(section.head), *names])
    yield _md_row(["---", *("---" if column.kind == "words" else "---:" for column in section.columns)])
    for group, rows in _grouped(section.rows):
        if group:
            yield _md_row([f"*{_md(group)}*", *("" for _ in names)])
        yield from (_md_row([_md(row.label), *map(_md_cell, row.cells)]) for row in rows)


def _md_row(texts: Sequence[str]) -> str:
    return f"| {' | '.join(texts)} |"


def _md_cell(cell: Cell) -> str:
    text = _md(_noted(cell))
    return {1: f"**{text}**", 2: f"<u>{text}</u>", None: text}[cell.rank]


# LaTeX

_TEX_WIDTH = 78  # characters that fit a line of the class article, at which a tabular is cut into two


def latex(table: Table) -> str:
    r"""``table`` environments for ``\input``; the document needs the package booktabs and nothing else.

    A small table is one float with its notes. A wide one, or one of several sections, is several floats with one number, as a
    float that is longer than a page loses its end; the notes follow as text.
    """
    sections = _printed(table, table.names)
    parts = [(section, tabular) for section in sections for tabular in _tex_tabulars(section)]
    legend = [f"Bold: {table.legend}; underlined: second."] if table.ranked else []
    lines = [r"% needs \usepackage{booktabs}"]
    if len(parts) == 1:
        notes = [*parts[0][0].notes, *legend, *table.footer]
        return "\n".join([*lines, *_tex_float(table.title, *parts[0], first=True, notes=notes)]) + "\n"
    for place, (section, tabular) in enumerate(parts):
        lines += _tex_float(table.title, section, tabular, first=place == 0)
    about = [f"{section.title}: {note}" if len(sections) > 1 else note for section in sections for note in section.notes]
    return "\n".join([*lines, *_tex_notes([*about, *legend, *table.footer])]) + "\n"


def _tex_float(title: str, section: _Section, tabular: list[str], first: bool, notes: Sequence[str] = ()) -> list[str]:
    """One float; all but the first take the number of the one before."""
    caption = rf"\caption{{{_tex(title)}}}" if first else rf"\addtocounter{{table}}{{-1}}\caption{{{_tex(title)} (continued)}}"
    head = [r"\begin{table}[htbp]", r"\centering", r"\small", caption]
    section_title = rf"\par\medskip\textit{{{_tex(section.title)}}}\par\smallskip"
    return [*head, section_title, *tabular, *(_tex_notes(notes) if notes else []), r"\end{table}"]


def _tex_tabulars(section: _Section) -> Iterator[list[str]]:
    """Tabulars of as many columns as a page is likely to hold."""
    for block in _blocks(section, _TEX_WIDTH, colour=True):
        columns = [section.columns[index] for index in block]
        rows = [replace(row, cells=tuple(row.cells[index] for index in block)) for row in section.rows]
        yield list(_tex_tabular(replace(section, columns=tuple(columns), rows=tuple(rows))))


def _tex_tabular(section: _Section) -> Iterator[str]:
    count = len(section.columns)
    yield rf"\begin{{tabular}}{{l{''.join('l' if column.kind == 'words' else 'r' for column in section.columns)}}}"
    yield r"\toprule"
    yield from _tex_column_groups(section.columns)
    yield _tex_row([_tex(section.head), *(_tex(column.name) for column in section.columns)])
    for group, rows in _grouped(section.rows):
        yield r"\midrule"
        if group:
            yield rf"\multicolumn{{{count + 1}}}{{l}}{{\textit{{{_tex(group)}}}}} \\"
        yield from (_tex_row([_tex(row.label), *map(_tex_cell, row.cells)]) for row in rows)
    yield r"\bottomrule"
    yield r"\end{tabular}"


def _tex_column_groups(columns: Sequence[_Column]) -> Iterator[str]:
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
    text = _tex(cell.text) + (rf"\textsuperscript{{{','.join(cell.notes)}}}" if cell.notes else "")
    return {1: rf"\textbf{{{text}}}", 2: rf"\underline{{{text}}}", None: text}[cell.rank]


def _tex_notes(lines: Sequence[str]) -> list[str]:
    return [r"\par\smallskip", r"{\raggedright\footnotesize", *(rf"{_tex(line)}\par" for line in lines), "}"]


# A web page


def web(table: Table) -> str:
    """Plain tables with captions and scoped headers for a page's body; no style, script or address in them."""
    lines = ["<section>", f"<h2>{for_html(table.caption)}</h2>"]
    for section in _printed(table, table.names):
        lines += _web_section(section)
    legend = [f"Bold: {table.legend}; underlined: second."] if table.ranked else []
    notes = [f"<li>{for_html(line)}</li>" for line in [*legend, *table.footer]]
    return "\n".join([*lines, "<ul>", *notes, "</ul>", "</section>"]) + "\n"


def _web_section(section: _Section) -> Iterator[str]:
    count = len(section.columns) + 1
    yield "<table>"
    yield f"<caption>{for_html(section.title)}</caption>"
    yield "<thead>"
    if groups := _column_groups(section.columns):
        heads = [f'<th colspan="{span}" scope="colgroup">{for_html(group)}</th>' if group else f'<td colspan="{span}"></td>'
                 for group, span in groups]  # fmt: skip
        yield f"<tr><td></td>{''.join(heads)}</tr>"
    names = "".join(f'<th scope="col">{for_html(column.name)}</th>' for column in section.columns)
    yield f'<tr><th scope="col">{for_html(section.head)}</th>{names}</tr>'
    yield "</thead>"
    for group, rows in _grouped(section.rows):
        yield "<tbody>"
        if group:
            yield f'<tr><th colspan="{count}" scope="rowgroup">{for_html(group)}</th></tr>'
        for row in rows:
            cells = "".join(f"<td>{_web_cell(cell)}</td>" for cell in row.cells)
            yield f'<tr><th scope="row">{for_html(row.label)}</th>{cells}</tr>'
        yield "</tbody>"
    yield "</table>"
    yield from (f"<p>{for_html(note)}</p>" for note in section.notes)


def _web_cell(cell: Cell) -> str:
    text = for_html(cell.text)
    marked = {1: f"<strong>{text}</strong>", 2: f"<u>{text}</u>", None: text}[cell.rank]
    return marked + (f"<sup>{','.join(cell.notes)}</sup>" if cell.notes else "")


# Numbers

_WORDED = ("words", "test")  # kinds of columns whose texts say more than a number: 2/0/4 (1.000)


def comma_separated(table: Table) -> str:
    """One line per cell, nine decimals, without title, marks and footer; missing numbers are empty, methods have our names.

    Columns: section, group, method, column_group, column, mean, std, n; with published figures also reported, gap and notes,
    on the line of what was measured; where a table has words or results of tests, also their text.
    """
    sections = _printed(table, {})
    published = any(column.kind == "reported" for section in sections for column in section.columns)
    lines = [line for section in sections for row in section.rows for line in _lines(section, row)]
    names = ["section", "group", "method", "column_group", "column", "mean", "std", "n", "reported", "gap", "notes", "text"]
    worded = any(column.kind in _WORDED for section in sections for column in section.columns)
    frame = pd.DataFrame(lines, columns=names).astype({"n": "Int64"})
    shown = [*(names[:11] if published else names[:8]), *(["text"] if worded else [])]
    return str(frame[shown].to_csv(index=False, lineterminator="\n"))


def _lines(section: _Section, row: _Row) -> Iterator[tuple[Any, ...]]:
    cells = list(zip(section.columns, row.cells, strict=True))
    reported = {column.key: cell for column, cell in cells if column.kind == "reported"}
    gaps = {column.key: cell.mean for column, cell in cells if column.kind == "gap"}
    measured = [(column, cell) for column, cell in cells if column.kind not in ("reported", "gap")]
    keys = {column.key for column, _ in measured}
    alone = [(column, Cell()) for column, _ in cells if column.kind == "reported" and column.key not in keys]
    for column, cell in (*measured, *alone):
        other = reported.get(column.key, Cell())
        group = "" if column.kind == "reported" else column.group
        yield (
            *map(for_spreadsheet, (section.title, row.group, row.label, group, column.name)), cell.mean, cell.std, cell.n,
            other.mean, gaps.get(column.key), " ".join(other.notes), for_spreadsheet(_csv_text(column, cell)),
        )  # fmt: skip


def _csv_text(column: _Column, cell: Cell) -> str:
    return cell.text if column.kind in _WORDED and cell.text != EMPTY else ""


def json_text(table: Table) -> str:
    """The table with marks and text; methods have our names."""
    sections = [asdict(section) for section in _printed(table, {}, str)]
    content = {"number": table.number, "title": table.title, "sections": sections, "footer": table.footer}
    return as_json(content) + "\n"


RENDERERS: Mapping[str, Callable[[Table], str]] = MappingProxyType(
    {"terminal": terminal, "md": markdown, "tex": latex, "html": web, "csv": comma_separated, "json": json_text}
)
SUFFIXES: Mapping[str, str] = MappingProxyType(
    {"terminal": ".txt", "md": ".md", "tex": ".tex", "html": ".html", "csv": ".csv", "json": ".json"}
)
FOR_PROGRAMS = frozenset({"csv", "json"})  # formats that no one reads from beginning to end
