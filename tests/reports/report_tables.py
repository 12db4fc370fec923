"""Tables of a few rows, and what is in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from report_rows import fill, labels_of

from vpbench.reporting.build_table import build_table
from vpbench.reporting.definition import load_definition
from vpbench.reporting.frame import Filters
from vpbench.reporting.table import Cell, Row, Section, Table


def table_of(folder: Path, *rows: dict[str, Any], **filters: tuple[Any, ...]) -> Table:
    return build_table(fill(folder, *rows).load(), load_definition("insvp", "1"), Filters(**filters))


def only_section(table: Table) -> Section:
    (section,) = table.sections
    return section


def labels(section: Section) -> list[str]:
    return labels_of(section)


def cells(section: Section, label: str) -> dict[str, Cell]:
    row: Row = section.rows[labels(section).index(label)]
    return {column.name: cell for column, cell in zip(section.columns, row.cells, strict=True)}


def footer(table: Table) -> str:
    return "\n".join(table.footer)
