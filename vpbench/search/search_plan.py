"""From what the user asks for to searches, and from their trials to the runs with what they have chosen."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pydantic import ValidationError

from vpbench.core.cards import first_error
from vpbench.core.errors import UnsupportedError, UsageError, VpbenchError
from vpbench.core.names import counted, unknown
from vpbench.models.registry import resolve_method
from vpbench.planning.check_names import methods_of, suite_of
from vpbench.planning.expected_time import Work
from vpbench.planning.plan import (
    Plan,
    PlannedRun,
    ResolvedRequest,
    check_runs,
    resolve,
    seeds_of,
    stored_runs,
)
from vpbench.search.space import Point, Space, read_space, split
from vpbench.search.study import Row, Study, Trial, import_optuna, winner
from vpbench.search.unfinished import UnfinishedError
from vpbench.spec.budget import Budget
from vpbench.spec.recipe import Recipe
from vpbench.spec.request import Request
from vpbench.spec.run_spec import Search
from vpbench.store.store import Store

SAMPLERS = ("grid", "tpe")
DEFAULT_BATCH = 8


@dataclass(frozen=True)
class SearchPlan:
    """All searches of a request.

    Attributes:
        trials, finals: the request, resolved for trials and for final runs.
        seeds: of the final runs.
        unsupported: sentences on methods that do not work on a backbone; they have no search.
    """

    studies: list[Study]
    trials: ResolvedRequest
    finals: ResolvedRequest
    seeds: list[int]
    space: Space
    unsupported: tuple[str, ...] = ()

    @property
    def budget(self) -> Search:
        """What is the same for all methods and data sets."""
        return self.studies[0].search

    @property
    def n_trials(self) -> int:
        return sum(study.search.trials for study in self.studies)

    @property
    def n_finals(self) -> int:
        return len(self.studies) * len(self.seeds)

    def summary(self) -> str:
        """The budget in two sentences, for people."""
        budget = self.budget
        methods, sets, backbones = (
            list(dict.fromkeys(names)) for names in zip(*((own.method, own.dataset, own.backbone.name) for own in self.studies))
        )
        places = f"each data set ({', '.join(sets)})"
        if len(backbones) > 1:
            places += f" and each backbone ({', '.join(backbones)})"
        how = "its whole grid" if budget.sampler == "grid" else f"TPE, seed {budget.seed}, {budget.batch} at a time"
        if budget.trial_epochs:
            how += f", {counted(budget.trial_epochs, 'epoch')} each"
        if budget.prune:
            how += f", those below the median stopped after epoch {budget.prune}"
        return (
            f"Search {budget.space} ({how}): {budget.trials} trials for each method ({', '.join(methods)}) on {places}, "
            f"chosen on validation images; {counted(self.n_trials, 'trial')} in all. "
            f"Then {counted(len(self.seeds), 'final run')} of each winner; {counted(self.n_finals, 'final run')} in all."
            + "".join(f" Not searched: {sentence}" for sentence in self.unsupported)
        )

    def runs_with(self, study: Study, values: Point, seeds: Sequence[int] | None = None) -> list[PlannedRun]:
        """The runs with what a search has chosen, one per seed; the cost of such a model is measured in the first.

        Args:
            seeds: None for all.
        """
        options, recipe = split({**self.space.settings(_name(study.method)), **values})
        finals = self.finals.on(study.backbone)
        first, *others = finals.runs(study.method, study.dataset, seeds or self.seeds, options, recipe, study.search)
        return [first, *(replace(run, measured=False) for run in others)]


@dataclass(frozen=True)
class Outcome:
    """A search that is over. ``best`` is None, and ``finals`` are empty, when no trial has a number."""

    study: Study
    trials: list[Trial]
    best: Trial | None
    finals: list[Row]


def plan_search(request: Request, budget: Budget, *, without_data: bool = False) -> SearchPlan:
    """Resolve and check every search, before anything is computed.

    Args:
        without_data: whether data sets that are not there are counted by their cards, for a plan that is only shown.

    Raises:
        VpbenchError: for anything in the request or the space that cannot work.
    """
    space = read_space(budget.space)
    methods = methods_of(request, suite_of(request)[1])
    for label in methods:
        resolve_method(label)
    searches = {label: _search(space, label, budget) for label in methods}
    _check_equal(space, searches)
    _check_free(space, request, methods)
    resolved = resolve(request, without_data=without_data)
    trials, finals = resolved.at("search"), resolved.at("final")
    seeds = seeds_of(resolved.suite, budget.seeds or len(resolved.suite.seeds))
    studies = [
        _study(space, searches[label], label, name, own, seeds[0])
        for name in resolved.data
        for own in trials.on_each_backbone()
        for label in methods
    ]
    plan = SearchPlan(studies, trials, finals, seeds, space)
    reasons = _check(plan)
    works = [study for study in studies if (study.method, study.backbone.name) not in reasons]
    if not works:
        raise UnsupportedError(" ".join(reasons.values()))
    return replace(plan, studies=works, unsupported=tuple(reasons.values()))


def play(studies: Sequence[Study], run_round: Callable[[list[PlannedRun]], Mapping[str, Row]]) -> list[list[Trial]]:
    """Play all searches to their ends, one round of all of them at a time, so that every round fills all workers.

    Args:
        studies: the searches.
        run_round: runs what has no row yet, and returns the rows by run id.

    Returns:
        the trials of each search.
    """
    searches = [study.rounds() for study in studies]
    asked = {place: next(search) for place, search in enumerate(searches)}
    ended: dict[int, list[Trial]] = {}
    while asked:
        rows = run_round([run for runs in asked.values() for run in runs])
        waiting, asked = asked, {}
        for place in waiting:
            try:
                asked[place] = searches[place].send(rows)
            except StopIteration as end:
                ended[place] = end.value
    return [ended[place] for place in range(len(searches))]


def round_plan(
    runs: list[PlannedRun], resolved: ResolvedRequest, store: Store, artefacts: Sequence[str] = (), later: Sequence[Work] = ()
) -> Plan:  # fmt: skip
    """The plan of a round, which ``later`` runs follow; a run that two trials share is in it once."""
    once = list({run.spec.run_id: run for run in runs}.values())
    return Plan(once, stored_runs(once, store, artefacts), resolved.data, resolved.request, later=later)


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
    about: dict[str, Any] = {
        "space": space.name,
        "digest": space.digest(method),
        "searched": tuple(space.parameters(method)),
        "trial_epochs": budget.trial_epochs or space.card.trial_epochs,
    }
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
        counts = ", ".join(f"{size} for {label}" for label, size in sizes.items())
        raise UsageError(
            f"search space {space.name}: the grid's points are {counts}; every method gets the same budget: search them apart, "
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


def _study(space: Space, search: Search, label: str, dataset: str, resolved: ResolvedRequest, seed: int) -> Study:
    method = _name(label)
    fixed = space.settings(method)

    def trial(values: Point, epochs: int | None) -> PlannedRun:
        options, recipe = split({**fixed, **values})
        (run,) = resolved.runs(label, dataset, [seed], options, recipe, search)
        if search.trial_epochs is not None:
            run = _shortened(run, search.trial_epochs, "--trial-epochs", "a final run")
        return run if epochs is None else _shortened(run, epochs, "--prune", "a trial")

    points = space.grid(method) if search.sampler == "grid" else []
    return Study(label, dataset, resolved.backbone, search, space.parameters(method), points, trial)


def _shortened(run: PlannedRun, epochs: int, flag: str, whole: str) -> PlannedRun:
    """The same run in fewer epochs, with a schedule of its own that ends there."""
    if epochs >= run.spec.recipe.epochs:
        raise UsageError(f"{flag} {epochs} must be less than the epochs of {whole}, {run.spec.recipe.epochs}.")
    try:
        recipe = Recipe.model_validate({**run.spec.recipe.model_dump(), "epochs": epochs, "iterations": None})
    except ValidationError as error:
        raise UsageError(f"{flag} {epochs}: recipe.{first_error(error)}") from error
    return replace(run, spec=run.spec.model_copy(update={"recipe": recipe}))


def _check(plan: SearchPlan) -> dict[tuple[str, str], str]:
    """Every listed value and both ends of every range, before the first run.

    Returns:
        by method and backbone, why the method works on it with none of these values.

    Raises:
        VpbenchError: for anything else that cannot work.
    """
    runs: list[PlannedRun] = []
    finals: dict[tuple[str, str], list[PlannedRun]] = defaultdict(list)
    for study in plan.studies:
        try:
            for point in plan.space.probes(_name(study.method)):
                runs.append(study.trial(point, None))
                if study.search.prune:
                    study.trial(point, study.search.prune)
                finals[study.method, study.backbone.name] += plan.runs_with(study, point, plan.seeds[:1])
        except VpbenchError as error:
            raise type(error)(f"search space {plan.space.name}: {error}") from error
    check_runs(runs, plan.trials.data)
    unsupported = check_runs([run for own in finals.values() for run in own], plan.finals.data)
    reasons: dict[tuple[str, str], str] = {}
    if not unsupported:
        return reasons
    for (label, backbone), own in finals.items():
        found = [unsupported[run_id] for run_id in (run.spec.run_id for run in own) if run_id in unsupported]
        if len(found) == len(own):
            reasons[label, backbone] = f"{label} on {backbone}: {found[0]}"
        elif found:
            raise UsageError(f"search space {plan.space.name}: {label} on {backbone}: {found[0]}")
    return reasons
