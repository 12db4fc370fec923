"""From a results folder to a table or to figures: what ``vpbench report`` and ``vpbench.report`` call."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pandas as pd

from vpbench.core.errors import UsageError
from vpbench.core.files import write_atomically
from vpbench.core.names import unknown
from vpbench.core.user_warning import warn
from vpbench.reporting.build_table import build_table
from vpbench.reporting.definition import TableDefinition, leaderboard, load_definition
from vpbench.reporting.formats import FOR_PROGRAMS, RENDERERS, SUFFIXES, terminal, web
from vpbench.reporting.frame import Filters, Names, load_rows
from vpbench.reporting.measured_costs import with_costs
from vpbench.reporting.no_rows import no_rows
from vpbench.reporting.plot_registry import find_plot
from vpbench.reporting.published import with_reported
from vpbench.reporting.scores import with_later_scales
from vpbench.reporting.table import Table
from vpbench.spec.parsing import words
from vpbench.store.store import DEFAULT_FOLDER, Store

METHODS = "methods"  # a table that is made without runs
SCORES = "scores"  # a table from predictions and probabilities
SEARCH = "search"  # a table of trials
DEFAULT_FIGURES = Path("results/figures")


class ReportText(str):
    """A table as text, which a notebook shows as a table."""

    table: Table

    @classmethod
    def of(cls, text: str, table: Table) -> ReportText:
        made = cls(text)
        made.table = table
        return made

    def _repr_html_(self) -> str:
        return web(self.table)


def make_report(
    table: str | int | None = None,
    plot: str | None = None,
    *,
    results: Path | str = DEFAULT_FOLDER,
    paper: str = "insvp",
    format: str | None = None,
    out: Path | str | None = None,
    dataset: Names = None,
    suite: Names = None,
    backbone: Names = None,
    method: Names = None,
    seed: int | None = None,
    reported: bool = False,
    mix: bool = False,
    compare: Sequence[str] | Sequence[Sequence[str]] | str = (),
    statistics: bool = False,
    costs: Path | str | None = None,
    width: int | None = None,
    colour: bool = False,
    on_progress: Callable[[str], None] | None = None,
) -> str | list[Path]:
    """A table as text, or the paths of the files written. Without ``table`` and ``plot``: table 1.

    Args:
        table: number of a table of ``paper``; or ``methods``: all methods, what they change and what they cost;
            or ``scores``: calibration and scores that weigh classes, from what runs left; or ``search``: what searches have
            selected.
        plot: name of a figure instead.
        results: the results folder.
        format: terminal, md, tex, html, csv or json; by default the one that ``out`` ends with, else terminal.
        out: file or folder to write to; figures go to ``results/figures`` by default.
        dataset, suite, backbone, method: keep only these: one name, names with commas between them, or a list.
        seed: keep only this seed.
        reported: add what the paper prints, in columns of its own.
        mix: put runs that are not alike into one section.
        compare: instead of a table of a paper, tests of two methods, or of several pairs of them.
        statistics: instead of a table of a paper, tests of all methods over all data sets.
        costs: of the table ``methods`` and the figure ``pareto``: a file of ``vpbench measure --output`` with times and memory.
        width: characters of a line in the terminal's format; None does not limit it.
        colour: let the terminal's format use escape codes.
        on_progress: called with each figure before it is written, and with each method before it is counted.

    Raises:
        StoreError: when the store holds no run, or not what the figure needs.
        UsageError: for an unknown name or options that exclude each other.
    """
    if table is not None and plot is not None:
        raise UsageError("a table or a plot, not both: leave out --table or --plot.")
    if sum((table is not None or plot is not None or reported, bool(compare), statistics)) > 1:
        raise UsageError("--compare, --statistics and a table or plot of a paper are three reports: ask for one at a time.")
    pairs = _pairs(compare)
    if costs is not None and table != METHODS and not (plot and find_plot(plot).of_costs):
        raise UsageError(f"--costs goes with --table {METHODS}, and with figures of costs, such as --plot pareto.")
    keep = Filters.of(dataset, suite, backbone, method, seed)
    store = Store(results)
    if plot is not None:
        if format is not None:
            raise UsageError("--format is for tables; figures are always written as PNG and PDF.")
        return _figures(plot, store, keep, Path(out or DEFAULT_FIGURES), costs, on_progress)
    target = Path(out) if out is not None else None
    kind = _format(format, target)
    if pairs or statistics:
        name = "comparison" if pairs else "statistics"
        built = _tests(store, keep, pairs, mix, every_pair=kind in FOR_PROGRAMS)
    elif table == METHODS:
        name, built = METHODS, _methods(keep, costs, on_progress)
    elif table == SCORES:
        # Imported here: SciPy's optimisers are not needed for other tables.
        from vpbench.reporting.scores_table import scores_table

        name, built = SCORES, scores_table(store, _runs(store), keep)
    elif table == SEARCH:
        from vpbench.reporting.search_table import search_table

        name, built = SEARCH, search_table(store, keep)
    else:
        definition = load_definition(paper, str(table if table is not None else 1))
        name = f"{paper}_table{definition.number}"
        built = _table(store, definition, paper, keep, reported, mix)
    text = terminal(built, width, colour and target is None) if kind == "terminal" else RENDERERS[kind](built)
    if target is None:
        return ReportText.of(text, built)
    if target.is_dir() or not target.suffix:
        target = target / f"{name}{SUFFIXES[kind]}"
    with _written_to(target):
        write_atomically(target, lambda partial: partial.write_text(text, encoding="utf-8", newline="\n"))
    return [target]


def _pairs(given: Sequence[str] | Sequence[Sequence[str]] | str) -> list[tuple[str, str]]:
    """``("vpt", "linear")``, ``"vpt,linear"`` or a list of such pairs as a list of pairs.

    Raises:
        UsageError: for anything else.
    """
    listed = words(given) or [] if isinstance(given, str) else list(given)
    pairs = [listed] if any(isinstance(entry, str) for entry in listed) else listed
    found = [tuple(pair) for pair in pairs]
    if any(len(pair) != 2 or not all(isinstance(name, str) for name in pair) for pair in found):
        raise UsageError(f"compare={given!r}: two methods are compared, e.g. compare=('insvp', 'vpt').")
    return [(str(first), str(second)) for first, second in found]


@contextmanager
def _written_to(place: Path) -> Iterator[None]:
    """A file that cannot be written is a mistake of the user's."""
    try:
        yield
    except OSError as error:
        raise UsageError(f"{place} cannot be written: {error.strerror or error}. Choose another place with --out.") from error


def _table(store: Store, definition: TableDefinition, paper: str, keep: Filters, reported: bool, mix: bool) -> Table:
    """A table of a paper. Without runs there is still what the paper reports."""
    if not reported:
        runs = with_later_scales(_runs(store, definition.numbers, definition.shifts), store, definition.scales)
        return build_table(runs, definition, keep, mix)
    runs = with_later_scales(load_rows(store, definition.numbers, definition.shifts), store, definition.scales)
    if runs.empty:
        warn(f"only what the paper reports is shown: {no_rows(store, definition.shifts)}")
    return with_reported(build_table(runs, definition, keep, mix), definition, paper)


def _methods(keep: Filters, costs: Path | str | None, on_progress: Callable[[str], None] | None) -> Table:
    """The table of all methods, or of some, on one backbone."""
    if len(keep.backbone or ()) > 1 or keep.dataset or keep.suite or keep.seed is not None:
        raise UsageError(f"--table {METHODS} reads no runs: of the filters it takes --method and one --backbone.")
    # Imported here: methods are counted with torch.
    from vpbench.reporting.methods_table import methods_table

    backbone, file = next(iter(keep.backbone or ()), None), Path(costs) if costs else None
    return methods_table(keep.method or ("all",), backbone, costs=file, on_method=on_progress)


def _tests(store: Store, keep: Filters, pairs: Sequence[tuple[str, str]], mix: bool, every_pair: bool) -> Table:
    # Imported here: the libraries for tests take a second that a table need not wait for.
    from vpbench.reporting.comparisons import compare
    from vpbench.reporting.rank_table import statistics_table

    runs = _runs(store, ("score",))
    if pairs:
        return compare(store, runs, pairs, keep, mix)
    return statistics_table(runs, leaderboard(), keep, mix, every_pair)


def _figures(
    name: str, store: Store, keep: Filters, folder: Path, costs: Path | str | None, on_progress: Callable[[str], None] | None
) -> list[Path]:
    # Imported here: matplotlib and scikit-learn take a second that a table need not wait for.
    from vpbench.reporting.figures import draw_figures

    needs_runs = not find_plot(name).of_trials or not store.folder.is_dir()
    runs = _runs(store) if needs_runs else load_rows(store)
    runs = runs if costs is None else with_costs(runs, Path(costs), keep)
    with _written_to(folder):
        return draw_figures(name, store, runs, keep, folder, on_progress)


def _runs(store: Store, numbers: Collection[str] | None = None, shifts: bool = False) -> pd.DataFrame:
    runs = load_rows(store, numbers, shifts)
    if runs.empty:
        raise no_rows(store, shifts)
    return runs


def _format(given: str | None, out: Path | None) -> str:
    """The format asked for, or the one whose suffix the file has.

    Raises:
        UsageError: for an unknown format, or a suffix that none has.
    """
    if given is not None and given not in RENDERERS:
        raise unknown("format", given, RENDERERS)
    by_suffix = {suffix: name for name, suffix in SUFFIXES.items()}
    if given is not None or out is None or out.is_dir() or not out.suffix:
        return given or "terminal"
    if out.suffix not in by_suffix:
        raise UsageError(f"--out {out}: no format ends with {out.suffix}: take {', '.join(by_suffix)}, or say --format.")
    return by_suffix[out.suffix]
