"""Definitions of tables: ``reports/tables/<paper>/<number>.toml``, and ``tables/<name>.toml`` of the user's folders."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from pydantic import Field, JsonValue, field_validator

from vpbench.core.cards import read_toml, validated
from vpbench.core.errors import UsageError
from vpbench.core.frozen_model import FrozenModel
from vpbench.core.names import unknown
from vpbench.core.user_files import user_files
from vpbench.reporting.keys import RowKey, split_name
from vpbench.reporting.paper_tables import MADE, paper_tables
from vpbench.reporting.scores import ACCURACY, SCORE
from vpbench.store.schema import COLUMNS

MEANS = {"datasets": "Mean", "groups": "Mean of groups"}  # how means are called


def _known_column(name: str) -> str:
    if name not in COLUMNS:
        raise ValueError(f"the store has no column '{name}'")
    return name


class Line(FrozenModel):
    """One row: the runs of ``method`` that have these options.

    With options, whatever preset the runs were asked for by; without, only runs of exactly that name and preset.
    """

    label: str
    method: str
    options: dict[str, JsonValue] = Field(default_factory=dict)

    @property
    def key(self) -> RowKey:
        """Of its row, without other options than its own."""
        method, preset = split_name(self.method)
        return RowKey(method, "" if self.options else preset, line=self.label)

    def selects(self, name: str, config: Mapping[str, Any]) -> bool:
        """Whether a run of the method ``name`` with the options ``config`` belongs here."""
        if not self.options:
            return name == self.method
        same = all(option in config and config[option] == value for option, value in self.options.items())
        return same and self.is_of(split_name(name)[0])

    def is_of(self, method: str) -> bool:
        """Whether it is a row of ``method``, with any preset."""
        return split_name(self.method)[0] == method


class RowGroup(FrozenModel):
    """Rows under one heading, in this order: ``lines`` first, then ``methods``.

    A preset without a line of its own follows its method.
    """

    group: str
    lines: tuple[Line, ...] = ()
    methods: tuple[str, ...] = ()


class CostColumn(FrozenModel):
    """A column after the accuracies: a mean of a store column over a row's data sets, divided by ``scale``."""

    column: str
    title: str
    scale: float = Field(1.0, gt=0)
    digits: int = Field(3, ge=1, description="significant digits")
    show: Literal["range", "mean"] = Field("range", description="what to print where the data sets' numbers differ")
    published: str = Field("", description="what the paper's own figures call it")
    gap: bool = Field(True, description="whether the published figure can be compared: not so for another machine's seconds")
    note: str = ""

    _column_exists = field_validator("column")(_known_column)


class TableDefinition(FrozenModel):
    """One table of a paper. Data sets are not listed: the store's groups and data sets become the columns."""

    title: str
    subject: str = Field("", description="the part of the title that names the paper's data, or its backbone")
    paper: str
    number: str
    task: str = Field("", description="of its runs; runs of others are left out")
    metric: str = Field("score", description="column of the store, higher is better; score is the metric of a run's task")
    decimals: int = Field(1, ge=0)
    columns: tuple[Literal["datasets", "groups", "means", "suites"], ...] = Field(
        ("datasets", "means"), description="kinds of columns, costs after them; 'suites' stands alone: a mean per suite"
    )
    means: tuple[Literal["datasets", "groups"], ...] = Field(
        ("datasets",), description="mean columns: over the data sets, over the means of their groups (VTAB)"
    )
    suites: tuple[str, ...] = Field((), description="the paper's data: shown alone as soon as the store has runs of them")
    backbones: tuple[str, ...] = Field((), description="the paper's backbones, likewise")
    rows: tuple[RowGroup, ...] = ()
    reference: str = Field("", description="the method that others are compared with")
    shifts: bool = Field(False, description="stored models on other data sets, with the runs that they come from")
    listed_only: bool = Field(False, description="leave out runs that no row names")
    costs: tuple[CostColumn, ...] = ()
    published: dict[str, str] = Field(
        default_factory=dict, description="row: what the paper's own figures call it; of several with one name the first has it"
    )
    elsewhere: dict[str, tuple[str, ...]] = Field(
        default_factory=dict, description="row: the backbones that the paper has it on, where these are not the table's"
    )
    without_row: dict[str, str] = Field(
        default_factory=dict, description="what the paper's figures call a row that no run of ours can be: why"
    )
    scales: tuple[float, ...] = Field(
        (), description="ratios of the multi-scale evaluation; of runs without one, that of --scales with these ratios is shown"
    )
    published_metric: str = Field("top-1", description="part of what the paper's figures call the metric")
    run: tuple[str, ...] = Field((), description="commands that fill the table")
    notes: tuple[str, ...] = ()

    _metric_exists = field_validator("metric")(_known_column)

    def title_for(self, papers: bool, scores: str = ACCURACY) -> str:
        """The title; without the paper's data and backbone where the runs are not all (``papers``) of these.

        Args:
            scores: what the scores of the runs are called, see :func:`vpbench.reporting.scores.score_titles`.
        """
        plain = self.title if papers or not self.subject else self.title.replace(self.subject, "")
        if self.score == SCORE and scores != ACCURACY:
            plain = re.sub(ACCURACY, scores, plain, flags=re.IGNORECASE)
            if plain.startswith(scores):  # mIoU is written with a small letter
                return plain
        return plain[0].upper() + plain[1:]

    @property
    def score(self) -> str:
        """The column of its scores: top-1 accuracy is the score of classification, and other tasks have theirs in its place."""
        return SCORE if self.metric == "acc1" else self.metric

    @property
    def numbers(self) -> tuple[str, ...]:
        """The store's columns that it shows."""
        return (self.score, *(cost.column for cost in self.costs))

    @property
    def lines(self) -> tuple[Line, ...]:
        """All rows that are selected by options."""
        return tuple(line for rows in self.rows for line in rows.lines)

    def place(self, key: RowKey) -> tuple[int, int, str]:
        """Sort key of a row: its group, its position there, its name. What is not listed comes last."""
        for index, rows in enumerate(self.rows):
            for position, line in enumerate(rows.lines):
                if line.label == key.line and line.is_of(key.method):
                    return index, position - len(rows.lines), key.line
        for name in (key.name, key.method):
            for index, rows in enumerate(self.rows):
                if name in rows.methods:
                    return index, rows.methods.index(name), key.name
        return len(self.rows), 0, key.name

    def order(self, key: RowKey) -> tuple[tuple[int, int, str], RowKey]:
        """Sort key of a row and its variants."""
        return self.place(key), key

    def group_of(self, key: RowKey) -> str:
        """The heading above a row."""
        index = self.place(key)[0]
        return self.rows[index].group if index < len(self.rows) else "Other methods"

    def lists(self, key: RowKey) -> bool:
        """Whether a row is named."""
        return self.place(key)[0] < len(self.rows)

    def rows_on(self, backbone: str | None) -> tuple[RowKey, ...]:
        """The rows that the paper prints for a backbone, whether there are runs of them or not; none for another backbone."""
        named = [(line.label, line.key) for rows in self.rows for line in rows.lines]
        named += [(name, RowKey(*split_name(name))) for rows in self.rows for name in rows.methods if name in self.published]
        return tuple(key for name, key in named if backbone in self.elsewhere.get(name, self.backbones))

    @property
    def names(self) -> dict[str, str]:
        """What the paper calls our methods; {} for the methods of a table that is no paper's."""
        lines = {line.label for line in self.lines}
        found: dict[str, str] = {}
        for ours, theirs in self.published.items():
            if ours not in lines and theirs not in found.values():
                found[ours] = theirs
        return found

    def published_name(self, key: RowKey | str) -> str | None:
        """What the paper's own figures call a row; None for a row that they do not have."""
        if isinstance(key, str) or key.options or key.protocol:
            return None
        return self.published.get(key.line or key.name)

    def row_of(self, published: str) -> RowKey | str:
        """Our row of what the paper calls ``published``; the paper's name where there is none."""
        for ours, theirs in reversed(self.published.items()):
            if theirs == published:
                line = next((line for line in self.lines if line.label == ours), None)
                return line.key if line else RowKey(*split_name(ours))
        return published


def load_definition(paper: str, number: str) -> TableDefinition:
    """The definition of table ``number`` of ``paper``, or of the user's table of that name.

    Raises:
        UsageError: for a paper or a table that has no file, or a file that is not a definition.
    """
    papers, own = paper_tables(), user_files("tables")
    if paper not in papers:
        raise unknown("paper", paper, papers)
    found = [*filter(None, [papers[paper].get(number)]), *own.get(number, [])]
    if not found:
        raise _unknown_table(paper, number, own)
    if len(found) > 1:
        raise UsageError(f"table '{number}' is both {found[0]} and {found[1]}; rename yours.")
    return validated(TableDefinition, read_toml(found[0]), found[0])


def _unknown_table(paper: str, number: str, own: Iterable[str]) -> UsageError:
    """The error for a table that there is not, or of another paper only."""
    papers = paper_tables()
    if of_others := [other for other, numbers in papers.items() if number in numbers]:
        choices = " or ".join(f"--paper {other}" for other in of_others)
        return UsageError(f"table {number} is none of {paper}'s but of {' and '.join(of_others)}: {choices}.")
    hint = f"Those with a number are of {paper}; vpbench list tables has all."
    return unknown("table", number, [*papers[paper], *MADE, *own], hint)


def listed_tables() -> list[dict[str, str]]:
    """Every table by name, paper and title: those of papers, those that are made without a definition, and the user's."""
    found = [(paper, number, file) for paper, numbers in paper_tables().items() for number, file in numbers.items()]
    found += [("", name, file) for name, own in user_files("tables").items() for file in own]
    titles = [(name, paper, validated(TableDefinition, read_toml(file), file).title) for paper, name, file in found]
    titles += [(name, "", title) for name, title in MADE.items()]
    return [{"name": name, "paper": paper, "title": title} for name, paper, title in titles]


def table_numbers() -> list[str]:
    """Numbers of the tables that come with vpbench, of all papers."""
    return sorted({number for numbers in paper_tables().values() for number in numbers})


def leaderboard() -> TableDefinition:
    """The order in which reports list methods, and the method that the others are compared with."""
    return load_definition("vpbench", "leaderboard")
