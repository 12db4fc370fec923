"""The part of the Python interface that reads and tidies results, which the command line is a thin layer over."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from vpbench.core.errors import UsageError
from vpbench.core.names import unknown
from vpbench.spec.flag import names_mistakes
from vpbench.spec.parsing import words
from vpbench.store.store import DEFAULT_FOLDER, Store

if TYPE_CHECKING:
    import pandas as pd

NOT_FILTERS = (
    "table",
    "plot",
    "results",
    "format",
    "out",
    "width",
    "colour",
    "folder",
    "figures",
    "own_page",
    "on_progress",
)


@names_mistakes
def load_results(folder: str | Path = DEFAULT_FOLDER, columns: Sequence[str] | str | None = None) -> pd.DataFrame:
    """All rows of a results folder, one per run; an empty frame with all columns when there are none, and a warning when there
    is no such folder.

    Args:
        columns: the only ones to read, a list or names with commas, which is quicker with many rows; None for all.
    """
    if not Path(folder).is_dir():
        warnings.warn(f"there is no results folder {folder}; an empty table is returned.", stacklevel=2)
    return Store(folder).load(words(columns) if isinstance(columns, str) else columns)


def report(
    table: str | int | None = None,
    plot: str | None = None,
    *,
    results: str | Path = DEFAULT_FOLDER,
    format: Literal["terminal", "md", "tex", "csv", "json", "html"] | None = None,
    out: str | Path | None = None,
    html: str | Path | None = None,
    **options: Any,
) -> str | list[Path]:
    """Render a table (as text), a figure (as files) or a whole page (as a folder) from a results folder.

    Args:
        table, plot, results, format, out: as in :func:`vpbench.reporting.make_report.make_report`.
        html: a folder for the page, instead of all of these.
        options: ``dataset``, ``suite``, ``backbone``, ``method``, ``seed``, and for tables ``paper``, ``reported``, ``mix``,
            ``compare`` (two methods, or a list of pairs) and ``statistics``: see ``vpbench report --help``.

    Returns:
        the text of a table without ``out``, which a notebook shows as a table; else the files written.

    Raises:
        VpbenchError: for an unknown argument or name, or when the store lacks what is asked for.
    """
    from vpbench.core.counting import counting
    from vpbench.core.terminal import is_watched
    from vpbench.reporting.make_report import make_report
    from vpbench.reporting.page import write_page

    function: Any = make_report if html is None else write_page
    own = [name for name in inspect.signature(report).parameters if name != "options"]
    known = [name for name in inspect.signature(function).parameters if name not in NOT_FILTERS]
    _check("report", options, known, own)
    if html is not None:
        if table is not None or plot is not None or format is not None or out is not None:
            raise UsageError("html writes a whole page: leave out table, plot, format and out.")
        with counting("page", quiet=not is_watched()) as on_progress:
            return [write_page(results, html, on_progress=on_progress, **options)]
    return make_report(table, plot, results=results, format=format, out=out, **options)


def compare(
    *methods: str | Sequence[str],
    results: str | Path = DEFAULT_FOLDER,
    format: Literal["terminal", "md", "tex", "csv", "json", "html"] | None = None,
    out: str | Path | None = None,
    **options: Any,
) -> str | list[Path]:
    """Test whether methods differ: two of them in pairs of runs, or all of them over all data sets.

    Args:
        methods: two names, ``"insvp", "vpt"`` or ``"insvp,vpt"``, or pairs of them; none: all methods, over all data sets.
        results, format, out: as in :func:`report`.
        options: ``dataset``, ``suite``, ``backbone``, ``method``, ``seed`` keep only these, and ``mix`` puts runs that are not
            alike side by side.

    Returns:
        as :func:`report`.

    Raises:
        VpbenchError: for an unknown argument or name, or when there are no such runs.
    """
    from vpbench.reporting.make_report import make_report

    known = ("dataset", "suite", "backbone", "method", "seed", "mix")
    _check("compare", options, known, ("results", "format", "out"))
    pairs: Any = methods[0] if len(methods) == 1 else methods
    return make_report(results=results, format=format, out=out, compare=pairs, statistics=not methods, **options)


@names_mistakes
def show(kind: str, name: str, results: str | Path = DEFAULT_FOLDER) -> dict[str, Any]:
    """Everything about one method, dataset, suite, backbone or run, as plain data."""
    from vpbench.reporting.describe import describe

    return describe(kind, name, Path(results))


@names_mistakes
def remove_runs(runs: Sequence[str] | str, results: str | Path = DEFAULT_FOLDER) -> list[str]:
    """Remove runs: their rows, also compacted ones, and their artefacts, checkpoints and logs. Nobody is asked.

    Args:
        runs: ids or their first digits, a list or with commas.

    Returns:
        the ids of what was removed.

    Raises:
        StoreError: when one of them is not there, ambiguous or under way; nothing has been removed then.
    """
    from vpbench.store.removing import find_runs
    from vpbench.store.removing import remove_runs as remove

    store = Store(results)
    found = [run.run_id for run in find_runs(store, words(runs) or [] if isinstance(runs, str) else runs)]
    remove(store, found)
    return found


def _check(function: str, given: dict[str, Any], known: Sequence[str], others: Sequence[str] = ()) -> None:
    """
    Raises:
        UsageError: for an argument that the function does not have, with a suggestion.
    """
    for name in given:
        if name not in known:
            raise unknown(f"argument of vpbench.{function}", name, [*known, *others])
