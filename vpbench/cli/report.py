"""``vpbench report``: tables and figures from the results folder."""

from __future__ import annotations

import os
import shutil
import sys
from itertools import count
from pathlib import Path
from pkgutil import iter_modules
from typing import Annotated

import typer

from vpbench.cli.options import number
from vpbench.cli.streams import warnings_as_lines, write_styled
from vpbench.reporting.paper_tables import in_a_line, paper_tables
from vpbench.reports import plots

# vpbench's own, listed without the registry, so that --help is fast.
TABLES = "; ".join(f"{paper}: {in_a_line(tables)}" for paper, tables in paper_tables().items())
PLOTS = sorted(name.replace("_", "-") for _, name, _ in iter_modules(plots.__path__) if not name.startswith("_"))
_Only = "Keep only this {}; several with commas."


def report(
    table: Annotated[
        str | None,
        typer.Option(
            metavar="TABLE",
            help=f"Its number ({TABLES}); methods, scores, search; or one of yours. See vpbench list tables. Default: 1.",
        ),
    ] = None,
    paper: Annotated[str, typer.Option(metavar="PAPER", help=f"Paper whose table it is: {', '.join(paper_tables())}.")] = "insvp",
    plot: Annotated[str | None, typer.Option(metavar="NAME", help=f"A figure instead: {', '.join(PLOTS)}.")] = None,
    format: Annotated[
        str | None,
        typer.Option(
            metavar="FORMAT", help="terminal, md, tex, html, csv or json. Default: what --out ends with, else terminal."
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="The same as --format json.")] = False,
    results: Annotated[Path, typer.Option(metavar="FOLDER", help="Results folder.")] = Path("results/runs"),
    out: Annotated[
        Path | None, typer.Option(metavar="FILE_OR_FOLDER", help="Where to write. Default: stdout, figures to results/figures.")
    ] = None,
    html: Annotated[Path | None, typer.Option(metavar="FOLDER", help="All of it as a page for a browser, instead.")] = None,
    reported: Annotated[bool, typer.Option("--reported", help="Add what the paper prints, and the gap to it.")] = False,
    compare: Annotated[
        tuple[str, str] | None, typer.Option(metavar="METHOD METHOD", help="Paired tests of two methods instead.")
    ] = None,
    statistics: Annotated[bool, typer.Option("--statistics", help="Tests of all methods over all data sets instead.")] = False,
    costs: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="With --table methods or --plot pareto: times and memory, of vpbench measure --output."
        ),
    ] = None,
    mix: Annotated[bool, typer.Option("--mix", help="Put runs that are not alike side by side.")] = False,
    dataset: Annotated[str | None, typer.Option(metavar="NAMES", help=_Only.format("data set"))] = None,
    suite: Annotated[str | None, typer.Option(metavar="NAMES", help=_Only.format("suite"))] = None,
    backbone: Annotated[str | None, typer.Option(metavar="NAMES", help=_Only.format("backbone"))] = None,
    method: Annotated[str | None, typer.Option(metavar="NAMES", help=_Only.format("method"))] = None,
    seed: Annotated[int | None, number("--seed", None, "Keep only this seed.")] = None,
) -> None:
    """Show the stored runs as a table or a figure. Reads the results folder and nothing else.

    Examples:

    \b
      vpbench report  # table 1 in the terminal
      vpbench report --table 1 --out table1.tex  # or .md, .html, .csv, .json
      vpbench report --suite mini --method vpt,insvp --format md
      vpbench report --paper ivpt --table 2 --reported  # and the paper's numbers
      # all methods, what they change and what they cost
      vpbench report --table methods --out methods.md
      # calibration and macro F1, of runs with --save predictions,probabilities
      vpbench report --table scores
      # what a search has selected, and what lies on the border of its grid
      vpbench report --table search
      vpbench report --compare insvp vpt  # paired tests; --statistics for all
      vpbench report --plot tsne --dataset digits  # of runs with --save features
      # leaderboard, figures, methods and runs; then open page/index.html
      vpbench report --html page
    """
    from vpbench.core.counting import counting
    from vpbench.core.errors import UsageError
    from vpbench.reporting.make_report import METHODS, make_report

    if json and format not in (None, "json"):
        raise UsageError(f"--json and --format {format} exclude each other; leave one out.")
    if html is not None:
        if table or plot or format or json or out:
            raise UsageError("--html writes a whole page: leave out --table, --plot, --format, --json and --out.")
        from vpbench.reporting.page import write_page

        with warnings_as_lines(), counting("page") as on_progress:
            page = write_page(
                results, html, dataset=dataset, suite=suite, backbone=backbone, method=method, seed=seed, on_progress=on_progress
            )
        typer.echo(page)
        return
    done = count()
    title = f"figures of {plot}" if plot else "counting methods"
    with warnings_as_lines(), counting(title, quiet=plot is None and table != METHODS) as on_progress:
        made = make_report(
            table, plot, paper=paper, format="json" if json else format, results=results, out=out,
            dataset=dataset, suite=suite, backbone=backbone, method=method, seed=seed, width=_width(), colour=_colour(),
            reported=reported, mix=mix, compare=[compare] if compare else [], statistics=statistics,
            costs=costs, on_progress=lambda name: on_progress(next(done), None, name),
        )  # fmt: skip
    if isinstance(made, str):
        write_styled(made)
    else:
        typer.echo("\n".join(map(str, made)))


def _width() -> int | None:
    """Characters of a line on a terminal; a pipe or a file has no limit."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def _colour() -> bool:
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR")
