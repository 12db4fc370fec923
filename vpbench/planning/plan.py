"""From a request to its runs, and those of them that are still missing."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, Literal

from vpbench.backbones.named import resolve_backbone
from vpbench.core.errors import UnsupportedError, UsageError, VpbenchError
from vpbench.core.hub import PREFIX, is_on_hub
from vpbench.core.names import counted, unknown
from vpbench.core.user_folders import user_path
from vpbench.data.caches import activation_limit
from vpbench.data.catalog import dataset_card
from vpbench.data.counted import CountedData
from vpbench.data.raw import RawData
from vpbench.models.registry import method_class, resolve_method
from vpbench.planning.check_names import methods_of, own_paths, suite_of
from vpbench.planning.expected_time import Work
from vpbench.planning.requested_data import open_requested, pinned_data
from vpbench.planning.rerun import to_repeat
from vpbench.planning.suites import (
    OWN_GROUP,
    SuiteCard,
    apply_protocol,
    method_options,
    preprocess_for,
    recipe_entries,
    resolve_recipe,
)
from vpbench.planning.user_settings import split_settings, task_settings
from vpbench.planning.validation_images import check_validation
from vpbench.spec.device import planned_device
from vpbench.spec.precision import resolve_precision
from vpbench.spec.recipe import Recipe
from vpbench.spec.request import Request
from vpbench.spec.run_options import DEFAULT_SAVE, RunOptions
from vpbench.spec.run_spec import BackboneSpec, DataSpec, MethodSpec, RunSpec, Search, TaskSpec
from vpbench.store.artefacts import artefact_files
from vpbench.store.schema import SETTLED
from vpbench.store.store import Store
from vpbench.tasks import Task, make_task, resolve_task, task_class

MOST_SEEDS = 1000


@dataclass(frozen=True)
class PlannedRun:
    """One run, with what its row says beside the specification.

    ``measured`` tells whether latency, throughput and memory are measured; of the runs of one winner, the first seed's are.
    ``warning`` is about the recipe, on these data.
    """

    spec: RunSpec
    recipe_source: str
    group: str
    measured: bool = True
    warning: str = ""


@dataclass(frozen=True)
class Plan:
    """All runs of a request, in order, and those of them that need not be run.

    Attributes:
        runs, stored, later: all of them; ids of those whose rows count as they are; the work of runs that will follow them.
        data: each data set once, opened but not decoded; as its card counts it where it is not there.
        request: what was asked for; where data lies and on which kind of device runs happen.
        unsupported: by id, why the method of a run does not work on the backbone; such a run becomes a row with that status.
    """

    runs: list[PlannedRun]
    stored: frozenset[str]
    data: dict[str, RawData]
    request: Request
    unsupported: Mapping[str, str] = field(default_factory=dict)
    later: Sequence[Work] = ()

    @property
    def absent(self) -> list[str]:
        """The data sets that are not on this machine; only a plan to be shown has such."""
        return absent(self.data)

    @property
    def missing(self) -> list[PlannedRun]:
        return [run for run in self.runs if run.spec.run_id not in self.stored]


@dataclass(frozen=True)
class ResolvedRequest:
    """A request whose names are looked up: the suite's card, the backbone, and its data sets.

    Attributes:
        opened: the data sets as their sources have them.
        data: the same with the training images that the suite's protocol uses.
        options: of methods, by the method's name, as the user has set them.
        overrides: fields of recipes that the user has set, by the method's name; under "" for all methods.
        stage: of the runs; None for plain ones.
        more: backbones that are asked for beside ``backbone``, on which this request is.
        task: what is predicted.
    """

    request: Request
    suite: SuiteCard
    suite_name: str
    opened: dict[str, RawData]
    data: dict[str, RawData]
    backbone: BackboneSpec
    selection: Any
    precision: Any
    options: dict[str, dict[str, Any]]
    overrides: dict[str, dict[str, Any]]
    stage: Literal["search", "final"] | None = None
    more: tuple[BackboneSpec, ...] = ()
    task: TaskSpec = field(default_factory=TaskSpec)
    _known: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)  # looking a name up takes 10 ms

    @property
    def methods(self) -> tuple[str, ...]:
        """Labels of all methods, as the request or the suite names them."""
        return self.request.methods or ()

    @property
    def absent(self) -> list[str]:
        """The data sets that are not on this machine."""
        return absent(self.data)

    def on_each_backbone(self) -> list[ResolvedRequest]:
        """The same for one backbone after the other."""
        return [self.on(backbone) for backbone in (self.backbone, *self.more)]

    def on(self, backbone: BackboneSpec) -> ResolvedRequest:
        """The same for this backbone alone."""
        return replace(self, backbone=backbone, more=())

    def at(self, stage: Literal["search", "final"]) -> ResolvedRequest:
        """The same for trials of a search, or for runs with what it has chosen."""
        data = {name: apply_protocol(raw, self.suite, stage) for name, raw in self.opened.items()}
        return replace(self, stage=stage, data=data)

    def runs(
        self, label: str, name: str, seeds: Iterable[int], options: Mapping[str, Any] | None = None,
        recipe: Mapping[str, Any] | None = None, search: Search | None = None,
    ) -> list[PlannedRun]:  # fmt: skip
        """A method on a data set, once per seed; a search sets options and fields of the recipe that the user has not set.

        Raises:
            UsageError: for a name or a value that does not fit.
        """
        method, _, preset = label.partition(":")
        entries = self._once(recipe_entries, method, self.suite_name, name, preset or None, self.task.name)
        settings = {**method_options(entries), **(options or {}), **self.options.get(method, {})}
        chosen = self._once(resolve_method, label, settings)
        overrides = {**self.overrides[""], **self.overrides.get(method, {})}
        settled, source = resolve_recipe(self.suite, entries, overrides)
        if recipe:
            settled, _ = resolve_recipe(self.suite, entries, {**recipe, **overrides})
        if settled.iterations:
            settled = settled.for_images(len(self.data[name].splits["train"]))
        set_here = {**(recipe or {}), **overrides}
        warning = _batch_warning(name, settled, len(self.data[name].splits["train"])) if "batch_size" in set_here else ""
        if search:
            source = f"{source}; search {search.space} on validation images"
        path = own_paths(self.request)[name] if self.request.data else self.suite.data.get(name)
        card = None if path else self._once(dataset_card, name)
        group = OWN_GROUP if card is None else card.group
        preprocess = preprocess_for(self.suite, None if card is None else card.decoding, self.request.background)
        return [
            PlannedRun(
                RunSpec(
                    method=chosen, backbone=self.backbone, preprocess=preprocess, recipe=settled, seed=seed,
                    data=self._data_spec(name, path, seed), selection=self.selection, precision=self.precision,
                    stage=self.stage, search=search, task=self.task,
                ), source, group, warning=warning,
            )
            for seed in seeds
        ]  # fmt: skip

    def _data_spec(self, name: str, path: str | None, seed: int) -> DataSpec:
        """A data set as a run with this seed has it."""
        spec = DataSpec(
            suite=self.suite_name, dataset=name, digest=self.data[name].digest, path=path, columns=dict(self.data[name].columns),
            hub=path.removeprefix(PREFIX) if path and is_on_hub(path) else None, unreadable=self.data[name].unreadable,
        )  # fmt: skip
        if self.suite.draws == "one":
            return spec
        key, opened = f"draw {name} {seed} {self.stage}", self.opened[name]
        if key not in self._known:
            self._known[key] = apply_protocol(opened, self.suite, self.stage, seed).digest
        return spec.model_copy(update={"digest": self._known[key], "drawn_from": opened.digest})

    def _once(self, look_up: Callable[..., Any], *words: Any) -> Any:
        key = f"{look_up.__name__} {json.dumps(words, sort_keys=True, default=str)}"
        if key not in self._known:
            self._known[key] = look_up(*words)
        return self._known[key]


def absent(data: Mapping[str, RawData]) -> list[str]:
    """Those data sets that are counted by their cards, as they are not on this machine."""
    return [name for name, raw in data.items() if isinstance(raw, CountedData)]


def make_plan(
    request: Request, store: Store, artefacts: Iterable[str] = (), *, whole: bool = False, without_data: bool = False
) -> Plan:
    """Resolve and check everything before anything is computed. Reads the store, and writes nothing.

    Args:
        request: what to run.
        store: where rows are; a run counts as stored when its row is settled and has the wanted artefacts.
        artefacts: file names that each run has to leave beside its row.
        whole: whether these are read to see if they are damaged, see :func:`stored_runs`.
        without_data: whether data sets that are not there are counted by their cards, for a plan that is only shown.

    Raises:
        VpbenchError: for anything in the request that cannot work.
    """
    resolved = resolve(request, without_data=without_data)
    seeds = seeds_of(resolved.suite, request.seeds)
    runs = [
        run
        for name in resolved.data  # which is decoded once for all backbones of one image size
        for own in resolved.on_each_backbone()
        for label in own.methods
        for run in own.runs(label, name, seeds)
    ]
    unsupported = check_runs(runs, resolved.data)
    return Plan(runs, stored_runs(runs, store, artefacts, whole), resolved.data, request, unsupported)


def plan_runs(request: Request, options: RunOptions, store: Store, *, without_data: bool = False) -> Plan:
    """The plan of a request with these options, see :func:`make_plan`: stored runs that ``--rerun`` asks for are missing, too.

    Raises:
        VpbenchError: for anything in the request that cannot work.
    """
    plan = make_plan(
        request, store, artefact_files(options.required), whole=options.save != DEFAULT_SAVE, without_data=without_data
    )
    return replace(plan, stored=plan.stored - to_repeat(options.rerun, store))


def resolve(request: Request, *, without_data: bool = False) -> ResolvedRequest:
    """Look up and open what a request names, methods excepted.

    Args:
        without_data: whether data sets that are not there are counted by their cards.

    Raises:
        VpbenchError: for anything that is not there or does not fit.
    """
    activation_limit()  # what it raises is said before anything is run
    asked, suite = suite_of(request)
    request, suite = pinned_data(request.model_copy(update={"methods": tuple(methods_of(request, suite))}), suite)
    name = suite.part_of or asked  # a part's runs are runs of the whole suite
    task = resolve_task(suite.task, {**suite.task_options, **task_settings(request)})
    backbone, *more = _backbones(request, suite)
    options, overrides = split_settings(request)
    precision = resolve_precision(request.precision or suite.precision, planned_device(request.device))
    selection = _choice("selection", request.selection or suite.selection, ("last", "best_val"))
    opened = open_requested(request, suite, asked, without_data)  # the only step that takes long
    data = {own: apply_protocol(raw, suite) for own, raw in opened.items()}
    return ResolvedRequest(
        request, suite, name, opened, data, backbone, selection, precision, options, overrides, more=tuple(more), task=task,
    )  # fmt: skip


def check_runs(runs: list[PlannedRun], data: dict[str, RawData]) -> dict[str, str]:
    """That every model can be built, and has the validation images that it needs.

    Returns:
        by id, why the method of a run does not work on the backbone.

    Raises:
        VpbenchError: for anything else that cannot work.
    """
    tasks: dict[tuple[str, str], Task[Any]] = {}
    for run in runs:
        spec = run.spec
        key = (spec.data.dataset, spec.task.model_dump_json())
        if key not in tasks:
            tasks[key] = make_task(spec.task, len(data[spec.data.dataset].class_names))
        tasks[key].check_run(spec)
    unsupported = _check_models(runs, {name: len(raw.class_names) for name, raw in data.items()})
    check_validation([run.spec for run in runs], data)
    return unsupported


def _backbones(request: Request, suite: SuiteCard) -> list[BackboneSpec]:
    """The backbones that a request names, or the suite's.

    Raises:
        UsageError: for an unknown name, or one weight file for several backbones.
    """
    names = list(dict.fromkeys(request.backbone or (suite.backbone,)))
    if len(names) > 1 and request.weights and user_path(request.weights).is_file():
        raise UsageError(
            f"--weights {request.weights} is one file, and --backbone names {', '.join(names)}: "
            "name a folder that holds a file for each of them, or leave --weights out."
        )
    size = request.image_size or suite.image_size
    return [_normalised(resolve_backbone(name, request.weights, size, request.patch_size), suite) for name in names]


def _normalised(backbone: BackboneSpec, suite: SuiteCard) -> BackboneSpec:
    """The backbone with the mean, the standard deviation and the resampling of positions that the suite asks for."""
    given = {
        "weights": (backbone.mean, backbone.std),
        "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        "none": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    }
    mean, std = given[suite.preprocess.normalisation]
    return backbone.model_copy(update={"mean": mean, "std": std, "pos_resample": suite.pos_resample})


def seeds_of(suite: SuiteCard, count: int) -> list[int]:
    """The first ``count`` seeds of a suite; beyond its own list, the numbers after the last one.

    Raises:
        UsageError: for more than :data:`MOST_SEEDS`, which nobody means and which would fill the memory.
    """
    if count > MOST_SEEDS:
        raise UsageError(f"--seeds {count}: take at most {MOST_SEEDS:,}; it is how many seeds, not a seed.")
    own = list(suite.seeds[:count])
    return own + [suite.seeds[-1] + 1 + extra for extra in range(count - len(own))]


def _batch_warning(dataset: str, recipe: Recipe, images: int) -> str:
    """On a batch that the user has set; small data sets have less than a batch of images in some suites, too."""
    if recipe.batch_size <= images:
        return ""
    return (
        f"recipe.batch_size is {recipe.batch_size}, and {dataset} has {counted(images, 'training image')}: "
        "an epoch is a single step; choose a smaller one."
    )


def _choice(name: str, value: str, allowed: tuple[str, ...]) -> Any:
    if value not in allowed:
        raise unknown(f"value of --{name}", value, allowed)
    return value


def _check_models(runs: list[PlannedRun], classes: dict[str, int]) -> dict[str, str]:
    """Build every kind of model once without values, so that an option that does not fit fails before any training."""
    found: dict[str, str] = {}
    for run in runs:
        spec = run.spec
        kinds = method_class(spec.method.name), task_class(spec.task.name)
        parts = (part.model_dump_json() for part in (spec.method, spec.backbone, spec.task))
        if reason := _why_unsupported(kinds, classes[spec.data.dataset], *parts):
            found[spec.run_id] = reason
    return found


@lru_cache(maxsize=10_000)  # several recipes, seeds, and the plans of one command ask for the same model
def _why_unsupported(_kinds: tuple[type, type], classes: int, method: str, backbone: str, task: str) -> str:
    """Why a method does not work on a backbone or for a task; empty where it does.

    Args:
        _kinds: classes of the method and the task, which are others when a user's file has changed.
        method, backbone, task: the specifications as JSON.
    """
    from vpbench.models.build import build_empty

    of_method, of_backbone = MethodSpec.model_validate_json(method), BackboneSpec.model_validate_json(backbone)
    try:
        build_empty(of_method, of_backbone, classes, "meta", TaskSpec.model_validate_json(task))
    except UnsupportedError as error:
        return str(error)
    except VpbenchError:
        raise
    except Exception:
        return ""  # a bug in the method becomes a row with its traceback, and does not stop the others
    return ""


def stored_runs(runs: list[PlannedRun], store: Store, artefacts: Iterable[str], whole: bool = False) -> frozenset[str]:
    """Ids of the runs that need not be done: their rows are settled, and the wanted artefacts are there.

    Args:
        whole: whether a damaged artefact counts as absent. All of it is read: for what a user asks for by name.
    """
    statuses, wanted = store.statuses(), list(artefacts)

    def is_there(run_id: str, name: str) -> bool:
        return store.has_artefact(run_id, name) if whole else store.artefact_path(run_id, name).exists()

    def is_stored(run_id: str) -> bool:
        status = statuses.get(run_id)
        if status == "ok":
            return all(is_there(run_id, name) for name in wanted)
        return status in SETTLED

    return frozenset(run.spec.run_id for run in runs if is_stored(run.spec.run_id))
