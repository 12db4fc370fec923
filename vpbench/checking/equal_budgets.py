"""Whether the searches in a table of rows were fair: equal budgets, all trials there, and the best of them run to the end."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from vpbench.checking.suite_protocol import searched_values
from vpbench.core.names import counted
from vpbench.search.study import Trial, winner
from vpbench.spec.run_spec import RunSpec, Search

# What must be equal for all methods of a suite on one backbone.
_BUDGET = ("sampler", "trials", "trial_epochs", "prune", "batch")
_Study = tuple[str, str, str, str, str]


@dataclass(frozen=True)
class SearchedRun:
    """A trial or a final run: its row, its specification, and the search that it belongs to."""

    row: Mapping[str, Any]
    spec: RunSpec
    search: Search

    @property
    def study(self) -> _Study:
        spec = self.spec
        return spec.data.suite, spec.backbone.name, spec.data.dataset, spec.method.label, self.search.digest

    @property
    def values(self) -> tuple[Any, ...]:
        return tuple(searched_values(self.spec, self.search).values())


def budget_faults(runs: Iterable[SearchedRun]) -> Iterator[str]:
    """Sentences on what makes the searches incomparable."""
    studies: dict[_Study, list[SearchedRun]] = defaultdict(list)
    budgets: dict[tuple[str, str], dict[tuple[Any, ...], str]] = defaultdict(dict)
    for run in runs:
        studies[run.study].append(run)
        budget = tuple(getattr(run.search, name) for name in _BUDGET)
        budgets[run.study[:2]].setdefault(budget, run.spec.method.label)
    for (suite, backbone), found in budgets.items():
        if len(found) > 1:
            listed = "; ".join(f"{method}: {_said(budget)}" for budget, method in found.items())
            yield f"the methods on {suite} with {backbone} were searched with different budgets ({listed})"
    for members in studies.values():
        spec = members[0].spec
        yield from (f"{spec.method.label} on {spec.data.dataset}: {fault}" for fault in _study_faults(members))


def _said(budget: tuple[Any, ...]) -> str:
    return ", ".join(f"{name} {value}" for name, value in zip(_BUDGET, budget) if value is not None)


def _study_faults(members: list[SearchedRun]) -> Iterator[str]:
    search = members[0].search
    trials = [run for run in members if run.spec.stage == "search"]
    finals = [run for run in members if run.spec.stage == "final"]
    whole = [run for run in trials if not search.prune or run.spec.recipe.epochs != search.prune]
    if not trials or (search.sampler == "grid" and len(trials) != search.trials):
        there = f"{len(trials)} of the {counted(search.trials, 'trial')} of its search {search.space} are there"
        yield f"{there}; add the others, or leave the method out"
        return
    best = winner([Trial.of(0, {}, dict(run.row)) for run in whole])
    if best is None or not finals:
        return
    rank = _rank(best.row)
    winners = {run.values for run in whole if run.row["status"] == "ok" and _rank(run.row) == rank}
    if others := [run for run in finals if run.values not in winners]:
        yield (
            f"{counted(len(others), 'final run')} with other settings than the best trial of its search: "
            f"{', '.join(map(str, others[0].values))} and not {', '.join(map(str, sorted(winners, key=str)[0]))}"
        )


def _rank(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """What decides between trials; those of one rank differ in their order alone."""
    return row["val_correct"], row["val_score"], row["lr"], row["weight_decay"]
