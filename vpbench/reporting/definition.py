"""What a table shows, read from ``reports/tables/<paper>/<number>.toml``."""

from __future__ import annotations

import tomllib
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from vpbench.core.cards import first_error
from vpbench.core.errors import UsageError
from vpbench.core.names import unknown
from vpbench.store.schema import COLUMNS


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


def _known_column(name: str) -> str:
    if name not in COLUMNS:
        raise ValueError(f"the store has no column '{name}'")
    return name


class RowGroup(_Frozen):
    """Methods under one heading, in this order; a preset without a line of its own follows its method."""

    group: str
    methods: tuple[str, ...]


class CostColumn(_Frozen):
    """A column behind the accuracies: the mean of a store column over a row's runs, divided by ``scale``."""

    column: str
    title: str
    scale: float = Field(1.0, gt=0)
    digits: int = Field(3, ge=1, description="significant digits")
    note: str = ""

    _column_exists = field_validator("column")(_known_column)


class TableDefinition(_Frozen):
    """One table of a paper. Data sets are not listed: the store's groups and data sets become the columns."""

    title: str
    paper: str
    number: str
    metric: str = Field("acc1", description="column of the store, higher is better")
    decimals: int = Field(1, ge=0)
    means: tuple[Literal["datasets", "groups"], ...] = Field(
        ("datasets",), description="mean columns: over the data sets, over the means of their groups (VTAB)"
    )
    rows: tuple[RowGroup, ...] = ()
    costs: tuple[CostColumn, ...] = ()
    notes: tuple[str, ...] = ()

    _metric_exists = field_validator("metric")(_known_column)

    def place(self, method: str) -> tuple[int, int, str]:
        """Sort key of a method: its group, its position there, its name. Methods that are not listed come last."""
        for name in (method, method.partition(":")[0]):
            for index, rows in enumerate(self.rows):
                if name in rows.methods:
                    return index, rows.methods.index(name), method
        return len(self.rows), 0, method

    def group_of(self, method: str) -> str:
        """The heading above a method's row."""
        index = self.place(method)[0]
        return self.rows[index].group if index < len(self.rows) else "Other methods"


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
