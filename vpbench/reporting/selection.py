"""Which of the store's runs a table shows, and what it says of the others."""

from __future__ import annotations

import pandas as pd

from vpbench.reporting.definition import TableDefinition
from vpbench.reporting.runs import Filters, known_methods


def of_the_paper(runs: pd.DataFrame, definition: TableDefinition, filters: Filters) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """The runs for a table, and remarks for its footer.

    The paper's suites and backbones are shown alone when the store has runs of them, and what the user filters by is left to the
    user. Without such runs the others are shown, and the remark says what to run.

    Args:
        runs: as :func:`vpbench.reporting.runs.arrange` gives them.
    """
    fill = f" To fill this table: {' && '.join(definition.run)}" if definition.run else ""
    remarks = _deleted(runs)
    if definition.listed_only:
        kept = runs[[definition.lists(method, row) for method, row in zip(runs["method"], runs["row"], strict=True)]]
        if kept.empty:
            return kept, (f"No run here is of {_listed(definition)}.{fill}",)
        runs, remarks = kept, (*remarks, *_left_out(len(runs) - len(kept), "of other methods or options"))
    absent = []
    for column, wanted, chosen in (
        ("suite", definition.suites, filters.suite or filters.dataset),
        ("backbone", definition.backbones, filters.backbone),
    ):
        if not wanted or chosen:
            continue
        kept = runs[runs[column].isin(wanted)]
        if kept.empty:
            absent.append(f"{column} {wanted[0]}")
        else:
            others = sorted(set(runs[column].dropna()) - set(wanted))
            remarks += _left_out(len(runs) - len(kept), f"with another {column}: {', '.join(others)} (--{column} shows them)")
            runs = kept
    if absent:
        remarks += (f"No run here has the paper's {' or '.join(absent)}; these are others.{fill}",)
        fill = ""
    return runs, (*remarks, *_missing_lines(runs, definition, fill))


def _deleted(runs: pd.DataFrame) -> tuple[str, ...]:
    names = sorted({str(method).partition(":")[0] for method in runs["method"].dropna().unique()} - known_methods())
    return (f"Not in this version of vpbench, and shown as stored: {', '.join(names)}.",) if names else ()


def _left_out(count: int, why: str) -> tuple[str, ...]:
    return (f"Left out: {count} run{'s' if count > 1 else ''} {why}.",) if count else ()


def _listed(definition: TableDefinition) -> str:
    names = [name for rows in definition.rows for name in (*(line.label for line in rows.lines), *rows.methods)]
    return " or ".join(names)


def _missing_lines(runs: pd.DataFrame, definition: TableDefinition, fill: str) -> tuple[str, ...]:
    """What the definition lists by options and no run has."""
    rows = set(runs["row"])
    missing = [line.label for line in definition.lines if line.label not in rows]
    return (f"No run here of {', '.join(missing)}.{fill}",) if missing else ()
