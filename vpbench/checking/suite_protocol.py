"""Whether a run followed the protocol of its suite: data sets and their counts, recipe, selection, seeds, and search space."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from vpbench.core.errors import UsageError
from vpbench.data.catalog import dataset_card
from vpbench.data.counted import CountedData
from vpbench.data.sources import counts
from vpbench.models.registry import current_options
from vpbench.planning.plan import seeds_of
from vpbench.planning.suites import (
    SuiteCard,
    apply_protocol,
    group_of,
    preprocess_for,
    recipe_entries,
    resolve_recipe,
    suite_card,
    suite_names,
)
from vpbench.search.space import RECIPE, Range, Space, read_space, space_names, split
from vpbench.spec.recipe import Recipe
from vpbench.spec.run_spec import RunSpec, Search
from vpbench.tasks import resolve_task

_MOST_SEEDS = 100
_SET = re.compile(r"set by the user: ([^;]*)")


def protocol_faults(row: Mapping[str, Any], spec: RunSpec, search: Search | None) -> Iterator[str]:
    """Sentences on what differs from the suite's protocol.

    In a run of a search the searched values may be any of the space's. For images of one's own (suite ``custom``) the recipe
    may have values that the row's ``recipe_source`` names.

    Args:
        search: of the row, for a trial or a final run.
    """
    name = spec.data.suite
    if name not in suite_names():
        yield f"its suite {name} has no card: add benchmarks/suites/{name}.toml to the pull request"
        return
    card = suite_card(name)
    if not card.is_own and spec.data.dataset not in card.datasets:
        yield f"the suite {name} has no data set {spec.data.dataset}"
        return
    yield from _fixed(row, spec, card)
    if search is not None and (fault := _space_fault(search, spec)):
        yield fault
        return
    yield from _recipe(row, spec, card, search)


def _fixed(row: Mapping[str, Any], spec: RunSpec, card: SuiteCard) -> Iterator[str]:
    """All but the recipe."""
    suite, dataset = spec.data.suite, spec.data.dataset
    wanted: dict[str, Any] = {"selection": card.selection}
    if card.precision != "auto":
        wanted["precision"] = card.precision
    if card.image_size is not None:
        wanted["image_size"] = card.image_size
    if not card.is_own and dataset not in card.data:
        wanted["dataset_group"] = group_of(card, dataset)
        wanted.update(_counts(suite, dataset, spec.stage))
    for column, value in wanted.items():
        if row[column] != value:
            yield f"its {column} is {row[column]}, and by the suite {suite} it is {value}"
    if row["total"] is not None and row["total"] != row["n_test"]:
        yield f"it was tested on {row['total']} images, and the data set has {row['n_test']}"
    if spec.seed not in seeds_of(card, _MOST_SEEDS):
        yield f"its seed {spec.seed} is none of the suite {suite}: {', '.join(map(str, card.seeds))}, ..."
    if spec.backbone.pos_resample != card.pos_resample:
        yield f"positions were resampled {spec.backbone.pos_resample}, and by the suite {suite} {card.pos_resample}"
    task = resolve_task(card.task, card.task_options)
    given = {name: value for name, value in spec.task.config.items() if task.config.get(name) != value}
    if spec.task.name != task.name or given:
        yield f"its task is {spec.task.name} {given or ''}".rstrip() + f", and that of the suite {suite} is {task.name}"
    if not card.is_own and dataset not in card.data:
        preprocess = preprocess_for(card, dataset_card(dataset).decoding)
        for field, value in preprocess.model_dump().items():
            if (found := getattr(spec.preprocess, field)) != value:
                yield f"its preprocess.{field} is {found}, and by the suite {suite} it is {value}"


@cache
def _counts(suite: str, dataset: str, stage: str | None) -> dict[str, int]:
    """Classes and images that the card of a data set counts; where few are drawn of each class, not those of training."""
    card = suite_card(suite)
    found = counts(apply_protocol(CountedData.of_card(dataset_card(dataset)), card, stage))
    return {name: count for name, count in found.items() if not (card.shots and name == "n_train")}


def _space_fault(search: Search, spec: RunSpec) -> str | None:
    """What is wrong with the search space of a run."""
    if search.space not in space_names():
        return f"its search space {search.space} has no card: add benchmarks/searches/{search.space}.toml to the pull request"
    space, method = read_space(search.space), spec.method.name
    if space.digest(method) != search.digest:
        return f"its search space {search.space} is another than the card of that name"
    found = searched_values(spec, search)
    for name, parameter in space.parameters(method).items():
        value = found[name]
        if not (parameter.low <= value <= parameter.high if isinstance(parameter, Range) else value in parameter):
            return f"its {name} is {value}, which the search space {search.space} does not have"
    return None


def searched_values(spec: RunSpec, search: Search) -> dict[str, Any]:
    """The values of a run that its search has chosen, by the names of the space's parameters."""
    known = current_options(spec.method.name, spec.method.config)
    known.update({f"{RECIPE}{name}": value for name, value in spec.recipe.model_dump().items()})
    return {name: known.get(name) for name in search.searched}


def _recipe(row: Mapping[str, Any], spec: RunSpec, card: SuiteCard, search: Search | None) -> Iterator[str]:
    suite = spec.data.suite
    overrides: dict[str, Any] = {}
    if search is not None:
        space: Space = read_space(search.space)
        overrides = split({**space.settings(spec.method.name), **searched_values(spec, search)})[1]
    entries = recipe_entries(spec.method.name, suite, spec.data.dataset, spec.method.preset, spec.task.name)
    try:
        wanted, _ = resolve_recipe(card, entries, overrides)
    except UsageError as error:
        yield f"the suite {suite} has no such recipe: {error}"
        return
    if wanted.iterations:
        wanted = wanted.for_images(row["n_train"])
    if spec.stage == "search" and search is not None:
        wanted = _of_a_trial(wanted, spec, search)
    free = _named_by_the_user(row) if card.is_own else set()
    for field, value in wanted.model_dump().items():
        if (found := getattr(spec.recipe, field)) != value and field not in free:
            yield f"its recipe.{field} is {found}, and by the suite {suite} it is {value}"


def _of_a_trial(recipe: Recipe, spec: RunSpec, search: Search) -> Recipe:
    """A trial may be as short as its budget says."""
    lengths = [search.trial_epochs or recipe.epochs, *([search.prune] if search.prune else [])]
    epochs = spec.recipe.epochs if spec.recipe.epochs in lengths else lengths[0]
    return recipe if epochs == recipe.epochs else recipe.model_copy(update={"epochs": epochs, "iterations": None})


def _named_by_the_user(row: Mapping[str, Any]) -> set[str]:
    """Fields of the recipe that the row says the user has set."""
    return {part.partition("=")[0].strip() for told in _SET.findall(row["recipe_source"] or "") for part in told.split(",")}
