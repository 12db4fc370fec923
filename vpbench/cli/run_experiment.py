"""``vpbench run FILE.toml``: the commands of an experiment, one after the other."""

from __future__ import annotations

import json
from collections.abc import Container
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from vpbench.experiments import Step
    from vpbench.spec.request import Request
    from vpbench.spec.run_options import RunOptions

FAILED = 1
ANYWHERE = ("device", "data_root")  # fields of a request that say nothing of what is run


def run_experiment(
    file: str, given: Container[str], request: Request, options: RunOptions, results: Path, dry_run: bool, as_json: bool
) -> None:  # fmt: skip
    """Run what the file says.

    Args:
        given: fields that the command line has, which take the place of the file's.

    Raises:
        UsageError: for an option on what to run, which the file says.
    """
    from vpbench.core.errors import UsageError
    from vpbench.experiments import read_experiment
    from vpbench.spec.flag import flags_of

    asked, how = (
        {name: getattr(model, name) for name in type(model).model_fields if name in given} for model in (request, options)
    )
    if what := [flag.spelled(name) for name, _, flag in flags_of(type(request)) if name in asked and name not in ANYWHERE]:
        raise UsageError(f"{what[0]}: {file} says what is run; change it there, or give options without a file.")
    experiment = read_experiment(file).changed(asked, how)
    place = experiment.results if experiment.results is not None and "results" not in given else results
    experiment.check(place, without_data=dry_run)  # each step says its notes itself
    steps_done: list[Any] = []
    whole = True
    for step in experiment.steps:
        typer.echo(f"$ {step.line(place)}", err=as_json)
        if dry_run:
            steps_done.append({"command": step.line(place), "plan": _plan(step, place, as_json)})
        else:
            outcome, is_whole = _run(step, place, as_json)
            whole &= is_whole
            steps_done.append({"command": step.line(place), "rows": outcome})
    if as_json:
        typer.echo(json.dumps(steps_done, indent=2))
    if not whole:
        raise typer.Exit(FAILED)


def _plan(step: Step, results: Path, as_json: bool) -> Any:
    from vpbench.cli.show_runs import show_plan
    from vpbench.cli.tune import show_search

    if step.budget is None:
        return show_plan(step.request, step.options, results, as_json)
    return show_search(step.request, step.budget, step.options, results, as_json)


def _run(step: Step, results: Path, as_json: bool) -> tuple[Any, bool]:
    """What there is to say of the runs as JSON, and whether all went well."""
    from vpbench.cli.show_runs import run_and_show
    from vpbench.cli.tune import tune_and_show

    if step.budget is None:
        return run_and_show(step.request, step.options, results, as_json)
    return tune_and_show(step.request, step.budget, step.options, results, as_json)
