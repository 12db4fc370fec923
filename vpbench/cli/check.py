"""``vpbench check``: the regression gate."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vpbench.cli.check_contribution import check_contribution
from vpbench.cli.streams import warnings_as_lines
from vpbench.core.names import counted
from vpbench.spec.parsing import numbers, words

if TYPE_CHECKING:
    import pandas as pd

    from vpbench.checking.findings import Comparison

REGRESSION = 1
DEFAULT_SUITE = "ci"


def check(
    baseline: Annotated[Path, typer.Option(metavar="FILE", help="Rows of a good version, several seeds.")] = Path(
        "results/baselines/ci.parquet"
    ),
    suite: Annotated[
        str | None, typer.Option(metavar="NAME", help="Data sets and protocol. Default: the baseline's; for a first one, ci.")
    ] = None,
    methods: Annotated[
        str | None, typer.Option(metavar="NAMES", help="Only these methods, with commas. Default: the baseline's.")
    ] = None,
    datasets: Annotated[str | None, typer.Option(metavar="NAMES", help="Only these data sets of the suite, with commas.")] = None,
    seeds: Annotated[
        str | None,
        typer.Option(
            metavar="0,2,...", help="Seeds of every cell, with commas. Default: one of the suite's, in turn; all with --update."
        ),
    ] = None,
    results: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Compare the rows in this results folder; nothing is run.")
    ] = None,
    keep: Annotated[Path | None, typer.Option(metavar="FOLDER", help="Keep the rows of this run in a results folder.")] = None,
    tolerance: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE",
            help="loss (1e-4), loss_elsewhere (1e-3), accuracy (1), false_alarm (0.01), cost (0.5). Repeatable.",
        ),
    ] = None,
    fail_on_cost: Annotated[bool, typer.Option("--fail-on-cost", help="A cost above its tolerance is a regression too.")] = False,
    markdown: Annotated[Path | None, typer.Option(metavar="FILE", help="Write a comment for a pull request.")] = None,
    junit: Annotated[Path | None, typer.Option(metavar="FILE", help="Write JUnit XML.")] = None,
    update: Annotated[
        bool, typer.Option("--update", help="Write a new baseline and show what differs from the old one.")
    ] = False,
    contribution: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE_OR_FOLDER", help="Check rows to be published, parquet, instead. Repeatable."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="What was found as JSON on stdout.")] = False,
) -> None:
    """Compare a small grid of runs with a baseline; exit 1 when a number is outside of what the baseline allows.

    Parameters, operations, counts, digests and options must be equal. On the
    baseline's platform a seed repeats its first losses to 1e-4 and its accuracy
    to a point. A mean accuracy must lie within what the baseline's seeds allow.
    Costs, as ratios to linear probing, are reported.

    Examples:

    \b
      vpbench check  # the baseline in results/baselines, a minute or two
      vpbench check --markdown check.md --junit check.xml
      vpbench check --results results/runs --suite mini --baseline mini.parquet
      # after a change that is meant to change numbers: all seeds, about 8 minutes
      vpbench check --update
      # the same for the rows of one method
      vpbench check --update --methods viapt
      # rows for results/published: clean commit, protocol, numbers
      vpbench check --contribution mine.parquet
    """
    if contribution:
        of_a_grid = (suite, methods, datasets, seeds, results, keep, tolerance, fail_on_cost, markdown, junit, update)
        check_contribution(contribution, any(of_a_grid), as_json)
        return
    from vpbench.checking.regressions import compare
    from vpbench.checking.tolerance import Tolerances
    from vpbench.core.errors import UsageError

    if results is not None and (keep is not None or seeds is not None):
        raise UsageError("--results compares rows that are there; --seeds and --keep are for running new ones.")
    tolerances = Tolerances.of(tolerance or [])
    old = _old_rows(baseline, update)
    part = _Part(suite or (_only_suite(old, baseline) if old is not None else DEFAULT_SUITE), words(methods), words(datasets))
    known = None if old is None else part.of(old)
    if not update and (known is None or known.empty):
        raise UsageError(f"the baseline {baseline} has no row of {part}; it has {_content(old)}.")
    now = _run(part, seeds, known, keep, update) if results is None else _stored(part, results)
    comparison = None if known is None or known.empty else compare(known, now, tolerances, fail_on_cost)
    written = _write_baseline(part, old, now, baseline) if update else None
    _show(comparison, baseline, markdown, junit, as_json)
    if written is not None:
        typer.echo(f"Wrote {baseline}: {counted(len(written), 'row')}, {_content(written)}.", err=as_json)
    elif comparison and comparison.failures:
        raise typer.Exit(REGRESSION)


@dataclass(frozen=True)
class _Part:
    """The rows that were asked for: of a suite, and of methods and data sets where they are named."""

    suite: str
    methods: list[str] | None
    datasets: list[str] | None

    def of(self, frame: pd.DataFrame) -> pd.DataFrame:
        wanted = frame["suite"] == self.suite
        for column, names in (("method", self.methods), ("dataset", self.datasets)):
            if names:
                wanted &= frame[column].isin(names)
        return frame[wanted]

    def __str__(self) -> str:
        named = (("method", self.methods), ("data set", self.datasets))
        return ", ".join([f"suite {self.suite}", *(f"{word} {', '.join(names)}" for word, names in named if names)])


def _old_rows(baseline: Path, update: bool) -> pd.DataFrame | None:
    """The baseline; None where ``--update`` replaces one that is absent or cannot be read."""
    from vpbench.checking.baseline import read_baseline
    from vpbench.core.errors import UsageError

    try:
        return read_baseline(baseline)
    except UsageError as error:
        if not update:
            raise
        if baseline.exists():
            typer.echo(f"The old baseline is replaced without a comparison: {error}", err=True)
        return None


def _stored(part: _Part, results: Path) -> pd.DataFrame:
    from vpbench.checking.baseline import read_results
    from vpbench.core.errors import UsageError

    with warnings_as_lines():
        now = part.of(read_results(results))
    if now.empty:
        raise UsageError(f"the results folder {results} has no row of {part}.")
    return now


def _run(part: _Part, seeds: str | None, known: pd.DataFrame | None, keep: Path | None, update: bool) -> pd.DataFrame:
    from vpbench.checking.gate_runs import plan_grid, run_grid
    from vpbench.execution.run_progress import RunProgress
    from vpbench.planning.plan import seeds_of
    from vpbench.planning.suites import default_methods, suite_card

    methods, datasets = part.methods, part.datasets
    if known is not None and not known.empty:  # in the baseline's order, as a cell's seed depends on it
        methods = list(dict.fromkeys([*known["method"], *(methods or ())]))
        datasets = list(dict.fromkeys([*known["dataset"], *(datasets or ())]))
    card = suite_card(part.suite)
    chosen = numbers("--seeds", seeds, "42,44") if seeds is not None else (seeds_of(card, len(card.seeds)) if update else None)
    plan = plan_grid(part.suite, methods or default_methods(card), datasets, chosen)
    with RunProgress() as progress:
        return run_grid(plan, progress, keep)


def _write_baseline(part: _Part, old: pd.DataFrame | None, now: pd.DataFrame, baseline: Path) -> pd.DataFrame:
    """The new baseline: of a whole suite it has the new rows alone, of a part of it also the other ones of before."""
    from vpbench.checking.baseline import merged, write_baseline

    whole_suite = not (part.methods or part.datasets)
    whole = merged(old[old["suite"] != part.suite] if old is not None and whole_suite else old, now)
    write_baseline(whole, baseline)
    return whole


def _show(comparison: Comparison | None, baseline: Path, markdown: Path | None, junit: Path | None, as_json: bool) -> None:
    from vpbench.checking.gate_report import as_data, as_junit, as_markdown, as_text, write_text

    if comparison is not None:
        if markdown:
            write_text(as_markdown(comparison, baseline), markdown)
        if junit:
            write_text(as_junit(comparison), junit)
    if as_json:
        typer.echo(json.dumps(as_data(comparison) if comparison else {"regression": False, "findings": []}, indent=2))
    elif comparison:
        typer.echo(as_text(comparison, shutil.get_terminal_size().columns if sys.stdout.isatty() else None), nl=False)


def _only_suite(frame: pd.DataFrame, baseline: Path) -> str:
    from vpbench.core.errors import UsageError

    names = list(dict.fromkeys(frame["suite"]))
    if len(names) > 1:
        raise UsageError(f"the baseline {baseline} holds several suites ({', '.join(names)}); choose one with --suite.")
    return str(names[0])


def _content(frame: pd.DataFrame | None) -> str:
    """What a frame holds, for a person."""
    if frame is None:
        return "nothing"
    suites, sets, methods = (", ".join(sorted(frame[word].unique())) for word in ("suite", "dataset", "method"))
    seeds = frame["seed"].nunique()
    return f"suite {suites}, data sets {sets}, methods {methods}, {seeds} seed{'' if seeds == 1 else 's'}"
