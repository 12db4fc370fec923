"""What a table shows, read from ``reports/tables/<paper>/<number>.toml``."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, field_validator

from vpbench.core.cards import first_error
from vpbench.core.errors import UsageError
from vpbench.core.names import unknown
from vpbench.store.schema import COLUMNS

MEANS = {"datasets": "Mean", "groups": "Mean of groups"}  # how means are called


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


def _known_column(name: str) -> str:
    if name not in COLUMNS:
        raise ValueError(f"the store has no column '{name}'")
    return name


class Line(_Frozen):
    """One row: the runs of ``method`` that have these options.

    With options, whatever preset the runs were asked for by; without, only runs of exactly that name and preset.
    """

    label: str
    method: str
    options: dict[str, JsonValue] = Field(default_factory=dict)

    def takes(self, method: str, config: Mapping[str, Any]) -> bool:
        """Whether a run of ``method`` with the options ``config`` belongs here."""
        if not self.options:
            return method == self.method
        same = all(name in config and config[name] == value for name, value in self.options.items())
        return same and method.partition(":")[0] == self.method

    def labels(self, row: str) -> bool:
        """Whether a row's label is this line's, with or without what else differs behind it."""
        return row == self.label or row.startswith((f"{self.label} (", f"{self.label} ["))


class RowGroup(_Frozen):
    """Rows under one heading, in this order: ``lines`` first, then ``methods``.

    A preset without a line of its own follows its method.
    """

    group: str
    lines: tuple[Line, ...] = ()
    methods: tuple[str, ...] = ()


class CostColumn(_Frozen):
    """A column behind the accuracies: a mean of a store column over a row's data sets, divided by ``scale``."""

    column: str
    title: str
    scale: float = Field(1.0, gt=0)
    digits: int = Field(3, ge=1, description="significant digits")
    show: Literal["range", "mean"] = Field("range", description="what to print where the data sets' numbers differ")
    published: str = Field("", description="what the paper's own figures call it")
    gap: bool = Field(True, description="whether the published figure can be compared: not so for another machine's seconds")
    note: str = ""

    _column_exists = field_validator("column")(_known_column)


class TableDefinition(_Frozen):
    """One table of a paper. Data sets are not listed: the store's groups and data sets become the columns."""

    title: str
    paper: str
    number: str
    metric: str = Field("acc1", description="column of the store, higher is better")
    decimals: int = Field(1, ge=0)
    columns: tuple[Literal["datasets", "groups", "means", "suites"], ...] = Field(
        ("datasets", "means"), description="kinds of columns, costs behind them; 'suites' stands alone: a mean per suite"
    )
    means: tuple[Literal["datasets", "groups"], ...] = Field(
        ("datasets",), description="mean columns: over the data sets, over the means of their groups (VTAB)"
    )
    suites: tuple[str, ...] = Field((), description="the paper's data: shown alone as soon as the store has runs of them")
    backbones: tuple[str, ...] = Field((), description="the paper's backbones, likewise")
    rows: tuple[RowGroup, ...] = ()
    listed_only: bool = Field(False, description="leave out runs that no row names")
    costs: tuple[CostColumn, ...] = ()
    published: dict[str, str] = Field(default_factory=dict, description="row: what the paper's own figures call it")
    run: tuple[str, ...] = Field((), description="commands that fill the table")
    unavailable: str = Field("", description="why no run can fill it, where that is so")
    notes: tuple[str, ...] = ()

    _metric_exists = field_validator("metric")(_known_column)

    @property
    def numbers(self) -> tuple[str, ...]:
        """The store's columns that it shows."""
        return (self.metric, *(cost.column for cost in self.costs))

    @property
    def lines(self) -> tuple[Line, ...]:
        """All rows that are selected by options."""
        return tuple(line for rows in self.rows for line in rows.lines)

    def place(self, method: str, row: str | None = None) -> tuple[int, int, str]:
        """Sort key of a method, or of its row where that is a line: its group, its position there, its name. What is not
        listed comes last."""
        for index, rows in enumerate(self.rows):
            for position, line in enumerate(rows.lines):
                if row is not None and line.labels(row) and _base(method) == _base(line.method):
                    return index, position - len(rows.lines), row
        for name in (method, _base(method)):
            for index, rows in enumerate(self.rows):
                if name in rows.methods:
                    return index, rows.methods.index(name), method
        return len(self.rows), 0, method

    def group_of(self, method: str, row: str | None = None) -> str:
        """The heading above a method's row."""
        index = self.place(method, row)[0]
        return self.rows[index].group if index < len(self.rows) else "Other methods"

    def lists(self, method: str, row: str | None = None) -> bool:
        """Whether a row, or the method of a row, is named."""
        return self.place(method, row)[0] < len(self.rows)


def _base(method: str) -> str:
    return method.partition(":")[0]


def load_definition(paper: str, number: str) -> TableDefinition:
    """The definition of table ``number`` of ``paper``.

    Raises:
        UsageError: for a paper or a table that has no file, or a file that is not a definition.
    """
    papers = {folder.name: folder for folder in _tables().iterdir() if folder.is_dir()}
    if paper not in papers:
        raise unknown("paper", paper, papers)
    numbers = {file.name.removesuffix(".toml"): file for file in papers[paper].iterdir() if file.name.endswith(".toml")}
    if number not in numbers:
        raise unknown("table", number, numbers, f"Those are of {paper}; --paper knows {', '.join(sorted(papers))}.")
    try:
        return TableDefinition.model_validate(tomllib.loads(numbers[number].read_text(encoding="utf-8")))
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{numbers[number]}: {error}") from error
    except ValidationError as error:
        raise UsageError(f"{numbers[number]}: {first_error(error)}") from error


def _tables() -> Traversable:
    return files("vpbench.reports").joinpath("tables")
