"""From what the user asks for to searches, and from their trials to the runs with what they have chosen."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from vpbench.core.cards import first_error
from vpbench.core.errors import UsageError, VpbenchError
from vpbench.core.names import unknown
from vpbench.models.build import build_empty
from vpbench.models.registry import resolve_method
from vpbench.planning.plan import Ground, Plan, PlannedRun, Request, check_runs, resolve, seeds_of, stored_runs
from vpbench.search.space import Point, Space, read_space, split
from vpbench.search.study import Row, Study, Trial, import_optuna, winner
from vpbench.spec.recipe import Recipe
from vpbench.spec.run_spec import Search
from vpbench.store.store import Store

SAMPLERS = ("grid", "tpe")
DEFAULT_SPACE = "vpt-grid"
DEFAULT_BATCH = 8


@dataclass(frozen=True)
class Budget:
    """What a user can ask of a search; None means the space's own value, or none.

    Attributes:
        space: name or file of the search space.
        sampler: ``grid`` or ``tpe``.
        trials: for every method on every data set.
        batch: trials that TPE chooses at a time; more use more workers, fewer learn more from each other.
        sampler_seed: of TPE.
        prune: epochs of the short runs that decide which trials are run in full; None: all are.
        seeds: final runs of each winner; None: as many as the suite has seeds.
    """

    space: str = DEFAULT_SPACE
    sampler: str | None = None
    trials: int | None = None
    batch: int | None = None
    sampler_seed: int | None = None
    prune: int | None = None
    seeds: int | None = None


@dataclass(frozen=True)
class SearchPlan:
    """All searches of a request. ``trials`` and ``finals`` are the grounds of their runs, ``seeds`` those of the finals."""

    studies: list[Study]
    trials: Ground
    finals: Ground
    seeds: list[int]
    space: Space

    @property
    def budget(self) -> Search:
        """What is the same for all methods and data sets."""
        return self.studies[0].search

    def runs_with(self, study: Study, values: Point) -> list[PlannedRun]:
        """The runs with what a search has chosen, one per seed."""
        options, recipe = split({**self.space.settings(_name(study.method)), **values})
        return self.finals.runs(study.method, study.dataset, self.seeds, options, recipe, study.search)


@dataclass(frozen=True)
class Outcome:
    """A search that is over. ``best`` is None, and ``finals`` are empty, when no trial has a number."""

    study: Study
    trials: list[Trial]
    best: Trial | None
    finals: list[Row]


class UnfinishedError(Exception):
    """Some runs of a round have no rows: they were left over on purpose, or are under way elsewhere."""


def plan_search(request: Request, budget: Budget) -> SearchPlan:
    """Resolve and check every search, before anything is computed.

    Raises:
        VpbenchError: for anything in the request or the space that cannot work.
    """
    if not request.methods:
        raise UsageError("--methods names no method; vpbench list methods shows them.")
    space = read_space(budget.space)
    methods = list(dict.fromkeys(request.methods))
    for label in methods:
        resolve_method(label)
    searches = {label: _search(space, label, budget) for label in methods}
    _check_equal(space, searches)
    _check_free(space, request, methods)
    ground = resolve(request)
    trials, finals = ground.at("search"), ground.at("final")
    seeds = seeds_of(ground.suite, budget.seeds or len(ground.suite.seeds))
    studies = [_study(space, searches[label], label, name, trials, seeds[0]) for name in ground.data for label in methods]
    plan = SearchPlan(studies, trials, finals, seeds, space)
    _check(plan)
    return plan


def play(studies: Sequence[Study], do: Callable[[list[PlannedRun]], Mapping[str, Row]]) -> list[list[Trial]]:
    """All searches to their ends, round by round and in step, so that every round fills all workers.

    Args:
        studies: the searches.
        do: runs what has no row yet, and returns the rows by run id.

    Returns:
        the trials of each search.
    """
    searches = [study.rounds() for study in studies]
    asked = {place: next(search) for place, search in enumerate(searches)}
    ended: dict[int, list[Trial]] = {}
    while asked:
        rows = do([run for runs in asked.values() for run in runs])
        waiting, asked = asked, {}
        for place in waiting:
            try:
                asked[place] = searches[place].send(rows)
            except StopIteration as end:
                ended[place] = end.value
    return [ended[place] for place in range(len(searches))]


def as_plan(runs: list[PlannedRun], ground: Ground, store: Store, artefacts: Sequence[str] = ()) -> Plan:
    """Runs of a round as a plan; a run that two trials share is there once."""
    once = list({run.spec.run_id: run for run in runs}.values())
    return Plan(once, stored_runs(once, store, artefacts), ground.data)


def replayed(plan: SearchPlan, study: Study, store: Store) -> tuple[set[str], list[Trial] | None]:
    """Ids of the runs of a search that are stored, finals included, and its trials when they are all there."""
    found: set[str] = set()

    def replay(runs: list[PlannedRun]) -> dict[str, Row]:
        found.update(stored_runs(runs, store, ()))
        if missing := sum(run.spec.run_id not in found for run in runs):
            raise UnfinishedError(missing)
        return rows_of(runs, store)

    try:
        (trials,) = play([study], replay)
    except UnfinishedError:
        return found, None
    if (best := winner(trials)) is not None:
        found.update(stored_runs(plan.runs_with(study, best.values), store, ()))
    return found, trials


def rows_of(runs: Sequence[PlannedRun], store: Store) -> dict[str, Row]:
    """Rows by run id.

    Raises:
        UnfinishedError: when some are not there.
    """
    rows = {run.spec.run_id: store.read_row(run.spec.run_id) for run in runs}
    found = {run_id: row for run_id, row in rows.items() if row is not None}
    if len(found) < len(rows):
        raise UnfinishedError(len(rows) - len(found))
    return found


def _name(label: str) -> str:
    return label.partition(":")[0]


def _search(space: Space, label: str, budget: Budget) -> Search:
    """A method's budget."""
    method = _name(label)
    sampler = budget.sampler or space.card.sampler
    if sampler not in SAMPLERS:
        raise unknown("value of --sampler", sampler, SAMPLERS)
    if not space.parameters(method):
        raise UsageError(f"search space {space.name} has nothing to search for {method}: leave it out of --methods.")
    about: dict[str, Any] = {"space": space.name, "digest": space.digest(method), "searched": tuple(space.parameters(method))}
    for name, value in (("trials", budget.trials), ("batch", budget.batch), ("prune", budget.prune), ("seeds", budget.seeds)):
        if value is not None and value < 1:
            raise UsageError(f"--{name} {value}: take 1 or more.")
    if sampler == "grid":
        for name, value in (("batch", budget.batch), ("sampler-seed", budget.sampler_seed), ("prune", budget.prune)):
            if value is not None:
                raise UsageError(f"--{name} is nothing for a grid, which runs every point in full; say --sampler tpe.")
        size = space.size(method)
        if budget.trials not in (None, size):
            raise UsageError(
                f"--trials {budget.trials}: the grid {space.name} has {size} points for {method}, and all of them are run; "
                "leave --trials out, or say --sampler tpe."
            )
        return Search(sampler="grid", trials=size, **about)
    import_optuna()
    trials = budget.trials or space.card.trials
    if trials is None:
        raise UsageError(f"search space {space.name} has no budget for --sampler tpe: say --trials N.")
    return Search(
        sampler="tpe", trials=trials, seed=budget.sampler_seed or 0, batch=budget.batch or DEFAULT_BATCH, prune=budget.prune,
        **about,
    )  # fmt: skip


def _check_equal(space: Space, searches: dict[str, Search]) -> None:
    sizes = {label: search.trials for label, search in searches.items()}
    if len(set(sizes.values())) > 1:
        told = ", ".join(f"{size} for {label}" for label, size in sizes.items())
        raise UsageError(
            f"search space {space.name}: the grid's points are {told}; every method gets the same budget: search them apart, "
            "or say --sampler tpe --trials N."
        )


def _check_free(space: Space, request: Request, methods: list[str]) -> None:
    """What is searched cannot be set."""
    for label in methods:
        method = _name(label)
        searched = {name for own in space.parameters(method) for name in (own, f"{method}.{own}")}
        if given := [name for name in request.settings if name in searched]:
            raise UsageError(f"--set {given[0]}: the search space {space.name} searches it; leave one of the two out.")
        if request.epochs is not None and "recipe.epochs" in searched:
            raise UsageError(f"--epochs {request.epochs}: the search space {space.name} searches it; leave one of the two out.")


def _study(space: Space, search: Search, label: str, dataset: str, ground: Ground, seed: int) -> Study:
    method = _name(label)
    fixed = space.settings(method)

    def trial(values: Point, epochs: int | None) -> PlannedRun:
        options, recipe = split({**fixed, **values})
        (run,) = ground.runs(label, dataset, [seed], options, recipe, search)
        return run if epochs is None else _shortened(run, epochs)

    points = space.grid(method) if search.sampler == "grid" else []
    return Study(label, dataset, search, space.parameters(method), points, trial)


def _shortened(run: PlannedRun, epochs: int) -> PlannedRun:
    """The same run in fewer epochs, with a schedule of its own that ends there."""
    if epochs >= run.spec.recipe.epochs:
        raise UsageError(f"--prune {epochs} must be less than a trial's epochs, {run.spec.recipe.epochs}.")
    try:
        recipe = Recipe.model_validate({**run.spec.recipe.model_dump(), "epochs": epochs})
    except ValidationError as error:
        raise UsageError(f"--prune {epochs}: recipe.{first_error(error)}") from error
    return PlannedRun(run.spec.model_copy(update={"recipe": recipe}), run.recipe_source, run.group)


def _check(plan: SearchPlan) -> None:
    """Every listed value and both ends of every range, before the first run."""
    runs: list[PlannedRun] = []
    finals: list[PlannedRun] = []
    for study in plan.studies:
        try:
            for point in plan.space.probes(_name(study.method)):
                runs.append(study.trial(point, None))
                if study.search.prune:
                    study.trial(point, study.search.prune)
                finals += plan.runs_with(study, point)[:1]
        except VpbenchError as error:
            raise type(error)(f"search space {plan.space.name}: {error}") from error
    check_runs(runs, plan.trials.data)
    check_runs(finals, plan.finals.data)
    for spec in {run.spec.method.label: run.spec for run in runs}.values():
        build_empty(spec.method, spec.backbone, 2, "meta")  # a method that this backbone cannot have has nothing to search
