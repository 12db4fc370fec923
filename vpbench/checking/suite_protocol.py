"""Whether a run followed the protocol of its suite: data sets and their counts, recipe, selection, seeds, and search space."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from vpbench.core.errors import UsageError
from vpbench.data.catalog import dataset_card
from vpbench.data.counted import CountedData
from vpbench.data.sources import counts
from vpbench.models.registry import current_options, method_registry
from vpbench.planning.plan import seeds_of
from vpbench.planning.suites import (
    SuiteCard,
    apply_protocol,
    preprocess_for,
    recipe_card,
    resolve_recipe,
    suite_card,
    suite_names,
)
from vpbench.search.space import RECIPE, Range, read_space, space_names, split
from vpbench.spec.recipe import Recipe
from vpbench.spec.run_spec import RunSpec, Search
from vpbench.tasks import resolve_task

T = TypeVar("T")
_MOST_SEEDS = 100
_SET = re.compile(r"set by the user: ([^;]*)")


class Protocols:
    """The protocols of suites; every card is read once, as a file has thousands of rows."""

    def __init__(self) -> None:
        self._known: dict[tuple[Any, ...], Any] = {}

    def is_own(self, suite: str) -> bool:
        """Whether a suite is for anybody's own images."""
        return self._card(suite).is_own

    def faults(self, row: Mapping[str, Any], spec: RunSpec, search: Search | None) -> Iterator[str]:
        """Sentences on what differs from the suite's protocol.

        In a run of a search the searched values may be any of the space's. For images of one's own (suite ``custom``) the recipe
        may have values that the row's ``recipe_source`` names.

        Args:
            search: of the row, for a trial or a final run.
        """
        name = spec.data.suite
        if not self._once(method_registry).has(spec.method.name):
            yield f"the method {spec.method.name} is none of vpbench's: add it to the pull request"
            return
        if name not in self._once(suite_names):
            yield f"its suite {name} has no card: add benchmarks/suites/{name}.toml to the pull request"
            return
        card = self._card(name)
        if not card.is_own and spec.data.dataset not in card.datasets:
            yield f"the suite {name} has no data set {spec.data.dataset}"
            return
        yield from self._fixed(row, spec, card)
        if search is not None and (fault := self._space_fault(search, spec)):
            yield fault
            return
        yield from self._recipe(row, spec, card, search)

    def _once(self, look_up: Callable[..., T], *words: Any) -> T:
        key = (look_up, *words)
        if key not in self._known:
            self._known[key] = look_up(*words)
        found: T = self._known[key]
        return found

    def _card(self, suite: str) -> SuiteCard:
        return self._once(suite_card, suite)

    def _fixed(self, row: Mapping[str, Any], spec: RunSpec, card: SuiteCard) -> Iterator[str]:
        """All but the recipe."""
        suite, dataset = spec.data.suite, spec.data.dataset
        wanted: dict[str, Any] = {"selection": card.selection}
        if card.precision != "auto":
            wanted["precision"] = card.precision
        if card.image_size is not None:
            wanted["image_size"] = card.image_size
        has_card = not card.is_own and dataset not in card.data
        if has_card:
            wanted["dataset_group"] = self._once(dataset_card, dataset).group
            wanted.update(self._once(_counts, suite, dataset, spec.stage))
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
        if has_card:
            preprocess = preprocess_for(card, self._once(dataset_card, dataset).decoding)
            for field, value in preprocess.model_dump().items():
                if (found := getattr(spec.preprocess, field)) != value:
                    yield f"its preprocess.{field} is {found}, and by the suite {suite} it is {value}"

    def _space_fault(self, search: Search, spec: RunSpec) -> str | None:
        """What is wrong with the search space of a run."""
        if search.space not in self._once(space_names):
            return f"its search space {search.space} has no card: add benchmarks/searches/{search.space}.toml to the pull request"
        space, method = self._once(read_space, search.space), spec.method.name
        if self._once(space.digest, method) != search.digest:
            return f"its search space {search.space} is another than the card of that name"
        found = searched_values(spec, search)
        for name, parameter in space.parameters(method).items():
            value = found[name]
            if not (parameter.low <= value <= parameter.high if isinstance(parameter, Range) else value in parameter):
                return f"its {name} is {value}, which the search space {search.space} does not have"
        return None

    def _recipe(self, row: Mapping[str, Any], spec: RunSpec, card: SuiteCard, search: Search | None) -> Iterator[str]:
        suite = spec.data.suite
        overrides: dict[str, Any] = {}
        if search is not None:
            space = self._once(read_space, search.space)
            overrides = split({**space.settings(spec.method.name), **searched_values(spec, search)})[1]
        own = self._once(recipe_card, spec.method.name).recipe
        entries = [one for one in own if one.applies(suite, spec.data.dataset, spec.method.preset, spec.task.name)]
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


def _counts(suite: str, dataset: str, stage: str | None) -> dict[str, int]:
    """Classes and images that the card of a data set counts; where few are drawn of each class, not those of training."""
    card = suite_card(suite)
    found = counts(apply_protocol(CountedData.of_card(dataset_card(dataset)), card, stage))
    return {name: count for name, count in found.items() if not (card.shots and name == "n_train")}


def searched_values(spec: RunSpec, search: Search) -> dict[str, Any]:
    """The values of a run that its search has chosen, by the names of the space's parameters."""
    known = current_options(spec.method.name, spec.method.config)
    known.update({f"{RECIPE}{name}": value for name, value in spec.recipe.model_dump().items()})
    return {name: known.get(name) for name in search.searched}


def _of_a_trial(recipe: Recipe, spec: RunSpec, search: Search) -> Recipe:
    """A trial may be as short as its budget says."""
    lengths = [search.trial_epochs or recipe.epochs, *([search.prune] if search.prune else [])]
    epochs = spec.recipe.epochs if spec.recipe.epochs in lengths else lengths[0]
    return recipe if epochs == recipe.epochs else recipe.model_copy(update={"epochs": epochs, "iterations": None})


def _named_by_the_user(row: Mapping[str, Any]) -> set[str]:
    """Fields of the recipe that the row says the user has set."""
    return {
        part.partition("=")[0].strip() for settings in _SET.findall(row["recipe_source"] or "") for part in settings.split(",")
    }
