"""A table as data: numbers in cells, and keys for what its rows, columns and sections are of. No markup."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from vpbench.reporting.keys import ColumnKey, RowKey, SectionKey

EMPTY = "-"


@dataclass(frozen=True)
class Cell:
    """One number of a table.

    Attributes:
        text: ready to print, without marks; ``-`` when there is no number.
        mean, std: in the column's unit, to nine decimals, which hides how sums were ordered; ``std`` is the sample standard
            deviation over seeds, None below two, and for means over data sets that have other seeds.
        n: seeds behind the number (for a cost: runs); None for a mean over data sets that have other seeds.
        rank: 1 for the best and 2 for the second best of the column in its section, after rounding; else None.
        notes: letters of the footnotes on it.
    """

    text: str = EMPTY
    mean: float | None = None
    std: float | None = None
    n: int | None = None
    rank: int | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Column:
    """What one column shows.

    Attributes:
        group: the heading above: a data set's group, or "Reported" and "Gap".
        name: its own heading; empty for a column that is of the row ``key``.
        kind: a data set's score, a mean of scores, a cost, a paper's figure, measured minus reported, a test's result, or words.
        key: what the numbers are of; a paper's figure has the key of what was measured.
    """

    group: str
    name: str
    kind: Literal["score", "mean", "cost", "reported", "gap", "test", "words"]
    key: ColumnKey | RowKey | None = None


@dataclass(frozen=True)
class Row:
    """A line of cells under the heading ``group``.

    Attributes:
        key: a method with its options; a name for a data set, or for a method that only the paper has.
    """

    group: str
    key: RowKey | str
    cells: tuple[Cell, ...]

    def scores(self, columns: Sequence[Column]) -> list[Cell]:
        """The cells of the data sets, without means and costs."""
        return [cell for cell, column in zip(self.cells, columns, strict=True) if column.kind == "score"]


@dataclass(frozen=True)
class Section:
    """Rows that may be compared: everything but method and recipe is the same.

    Attributes:
        key: what the runs share; None for mixed runs, and for what is no run.
        caption: what the title says before that.
        backbone, suites: of its runs; None and empty where they have several backbones, or no run at all.
        head: what the rows are.
    """

    key: SectionKey | None
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...]
    backbone: str | None = None
    suites: tuple[str, ...] = ()
    head: str = "Method"
    caption: str = ""

    @property
    def has_a_number_alone(self) -> bool:
        """Whether one of the columns that are ranked has a single number, which is compared with none."""
        ranked = [place for place, column in enumerate(self.columns) if column.kind in ("score", "mean")]
        return any(sum(row.cells[place].mean is not None for row in self.rows) == 1 for place in ranked)


@dataclass(frozen=True)
class Table:
    """Sections, each with its own columns, and the lines below.

    Attributes:
        number: in the paper; empty for none.
        others: sections of the same runs that are not shown, and that titles must be different from.
        names: what readers see in place of a row's method and preset, as a paper's table calls them.
    """

    number: str
    title: str
    sections: tuple[Section, ...]
    footer: tuple[str, ...]
    others: tuple[SectionKey, ...] = ()
    names: Mapping[str, str] = field(default_factory=dict)

    @property
    def caption(self) -> str:
        return f"Table {self.number}: {self.title}" if self.number else self.title

    @property
    def ranked(self) -> bool:
        """Whether any cell carries a mark."""
        return any(cell.rank for section in self.sections for row in section.rows for cell in row.cells)

    @property
    def legend(self) -> str:
        """What the mark of the best means, for a table that is ranked."""
        alone = any(section.has_a_number_alone for section in self.sections)
        where = "its column" if len(self.sections) == 1 else "a column in its section"
        return f"best of {where}, over all groups of methods" + (" (a number alone in its column has no mark)" if alone else "")
