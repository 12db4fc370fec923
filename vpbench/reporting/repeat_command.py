"""The command that repeats a stored run."""

from __future__ import annotations

import shlex
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vpbench.core.errors import VpbenchError
from vpbench.core.hashing import canonical_json
from vpbench.data.catalog import dataset_card, dataset_names
from vpbench.models.registry import resolve_method
from vpbench.planning.suites import SuiteCard, method_options, preprocess_for, recipe_entries, resolve_recipe
from vpbench.reporting.frame import is_missing, known_suite
from vpbench.reporting.keys import split_name
from vpbench.reporting.settings import options_of, settings_in
from vpbench.spec.decoding_rule import OWN_DECODING
from vpbench.spec.parsing import text_of
from vpbench.spec.run_spec import DEFAULT_TASK, Preprocess


@dataclass(frozen=True)
class Command:
    """A line for the shell, split before each option, and notes for whoever runs it."""

    parts: tuple[str, ...]
    notes: tuple[str, ...] = ()

    @property
    def line(self) -> str:
        return " ".join(self.parts)


@dataclass(frozen=True)
class Plan:
    """What this version would run: options and version of the method, None where it has no such method, and the recipe."""

    options: dict[str, Any] | None
    version: int | None
    recipe: dict[str, Any]
    problem: str = ""


class Plans:
    """Plans by label, suite and data set, each found once, as finding a method takes a while."""

    def __init__(self) -> None:
        self._plans: dict[tuple[str, str, str], Plan] = {}
        self._methods: dict[str, tuple[dict[str, Any] | None, int | None, str]] = {}
        self._suites: dict[str, SuiteCard | None] = {}

    def suite(self, name: str) -> SuiteCard | None:
        """The card of a suite; None for one that this version does not have."""
        if name not in self._suites:
            self._suites[name] = known_suite(name)
        return self._suites[name]

    def get(self, label: str, suite_name: str, dataset: str) -> Plan:
        """The plan for a run; one with a problem where this version cannot have it."""
        key = (label, suite_name, dataset)
        if key not in self._plans:
            self._plans[key] = self._make(*key)
        return self._plans[key]

    def _make(self, label: str, suite_name: str, dataset: str) -> Plan:
        method, preset = split_name(label)
        suite = self.suite(suite_name)
        try:
            entries = recipe_entries(method, suite.part_of or suite_name, dataset, preset or None, suite.task) if suite else []
            recipe = resolve_recipe(suite, entries, {})[0].model_dump(mode="json") if suite else {}
        except VpbenchError as error:
            return Plan(None, None, {}, str(error))
        options, version, problem = self._method(label, method_options(entries))
        return Plan(options, version, recipe, problem)

    def _method(self, label: str, settings: dict[str, Any]) -> tuple[dict[str, Any] | None, int | None, str]:
        """Options and version of a method, or why this version cannot have it."""
        key = canonical_json([label, settings])
        if key not in self._methods:
            try:
                spec = resolve_method(label, settings)
                self._methods[key] = dict(spec.config), spec.version, ""
            except VpbenchError as error:
                self._methods[key] = None, None, str(error)
        return self._methods[key]


def repeat_command(run: Mapping[Hashable, Any], plans: Plans) -> Command:
    """The ``vpbench run`` that has the run's specification.

    What this version's suite or recipe sets anyway is left out; every other setting is an option. Notes name what no option of
    the command can restore.

    Args:
        run: a row of the store; values that it lacks are left to this version's.
        plans: of this version.
    """
    run, further = _training(run)
    label, suite_name, dataset = (str(run[name]) for name in ("method", "suite", "dataset"))
    suite = plans.suite(suite_name)
    words, notes = ["vpbench", "run", "--methods", label], []
    if suite is not None and suite.is_own:
        place = run.get("data_path")
        words += ["--data", "PATH" if is_missing(place) else _from_here(str(place))]
        words += ["--task", suite.task] if suite.task != DEFAULT_TASK else []
        notes += [f"PATH stands for the images of {dataset}."] if is_missing(place) else []
    else:
        words += ["--suite", suite_name, "--datasets", dataset]
    if suite is None:
        notes.append(f"This version of vpbench has no suite '{suite_name}'.")
    if not is_missing(run["backbone"]) and (suite is None or run["backbone"] != suite.backbone):
        words += ["--backbone", str(run["backbone"])]
    words += _weights(run, notes)
    if not is_missing(run["image_size"]):
        words += ["--image-size", str(int(run["image_size"]))]
    words += _settings(run, split_name(label)[0], plans.get(label, suite_name, dataset), notes)
    for option in ("precision", "selection"):
        if not is_missing(run[option]) and (suite is None or run[option] != getattr(suite, option)):
            words += [f"--{option}", str(run[option])]
    if suite is not None:
        words += ["--skip-unreadable"] if _left_out_images(run) else []
        words += _seeds(run, suite, notes)
        words += _preprocessing(run, suite, notes)
    words += further
    parts: list[list[str]] = []
    for word in words:
        if not parts or word.startswith("--"):
            parts.append([])
        parts[-1].append(shlex.quote(word))
    return Command(tuple(map(" ".join, parts)), tuple(notes))


def _training(run: Mapping[Hashable, Any]) -> tuple[Mapping[Hashable, Any], list[str]]:
    """The run whose model a row is of, and the options that test it further where the row does so."""
    if run.get("stage") != "shift":
        return run, []
    own = run["dataset"] == run["trained_on"]
    words = [] if own else ["--test-on", str(run["dataset"])]
    words += [] if is_missing(run["interpolation"]) else ["--wise-ft", f"{run['interpolation']:g}"]
    return {**run, "dataset": run["trained_on"], "preprocess": None if not own else run["preprocess"]}, words


def _left_out_images(run: Mapping[Hashable, Any]) -> bool:
    """Whether images that could not be read were left out."""
    data = settings_in(run.get("spec")).get("data")
    return isinstance(data, dict) and bool(data.get("unreadable"))


def _preprocessing(run: Mapping[Hashable, Any], suite: SuiteCard, notes: list[str]) -> list[str]:
    """The option for the ground under transparent pixels, where it is the user's."""
    if is_missing(run["preprocess"]):
        return []
    own = suite.is_own
    known = own or run["dataset"] in dataset_names()
    planned = preprocess_for(suite, None if own or not known else dataset_card(str(run["dataset"])).decoding)
    found = settings_in(run["preprocess"])
    recorded = {**Preprocess.model_validate({}).model_dump(include=set(OWN_DECODING)), **found}
    ground = recorded["background"] if own and recorded["background"] != "ignored" else planned.background
    if recorded != planned.model_copy(update={"background": ground}).model_dump(mode="json"):
        notes.append("The suite prepared images otherwise when this run was made: see Preprocessing.")
    return ["--background", str(ground)] if ground != planned.background else []


def _weights(run: Mapping[Hashable, Any], notes: list[str]) -> list[str]:
    if run["weights"] == "random":
        return ["--weights", "random"]
    if run["weights"] != "file":
        return []
    if not is_missing(place := run.get("weights_path")):
        return ["--weights", _from_here(str(place))]
    known = "" if is_missing(run["weights_sha256"]) else f", the one with SHA-256 {run['weights_sha256']}"
    notes.append(f"FILE stands for the weight file{known}.")
    return ["--weights", "FILE"]


def _from_here(place: str) -> str:
    """A path below the working folder as a user would type it there; any other as it is."""
    path = Path(place)
    inside = path.is_absolute() and path.is_relative_to(Path.cwd()) and path != Path.cwd()
    return str(path.relative_to(Path.cwd())) if inside else place


def _settings(run: Mapping[Hashable, Any], method: str, plan: Plan, notes: list[str]) -> list[str]:
    """``--epochs`` and ``--set`` for what this version would do otherwise."""
    if plan.problem:
        notes.append(plan.problem)
    options, recipe = options_of(run), settings_in(run["recipe"])
    words: list[str] = []
    if "epochs" in recipe and recipe["epochs"] != plan.recipe.get("epochs"):
        words += ["--epochs", str(recipe["epochs"])]
    for name, value in options.items():
        if plan.options is None or name in plan.options:
            words += (
                [] if plan.options is not None and plan.options[name] == value else ["--set", f"{method}.{name}={text_of(value)}"]
            )
        else:
            notes.append(f"{method} has no option '{name}' any more; it was {text_of(value)}.")
    words += [
        word
        for name, value in recipe.items()
        if name != "epochs" and (name not in plan.recipe or plan.recipe[name] != value)
        for word in ("--set", f"recipe.{name}={text_of(value)}")
    ]
    made = run["method_version"]
    if plan.version is not None and not is_missing(made) and int(made) != plan.version:
        notes.append(f"{method} has version {plan.version} here, and this run was made with version {int(made)}.")
    return words


def _seeds(run: Mapping[Hashable, Any], suite: SuiteCard, notes: list[str]) -> list[str]:
    """``--seeds`` counts the suite's seeds, which go on from the last one."""
    if is_missing(run["seed"]):
        return []
    seed, own = int(run["seed"]), list(suite.seeds)
    if seed in own:
        count = own.index(seed) + 1
    elif seed > own[-1]:
        count = len(own) + seed - own[-1]
    else:
        notes.append(f"Seed {seed} is not among the suite's: vpbench run cannot ask for it.")
        return []
    if count == 1:
        return []
    notes.append(f"{'The seed' if count == 2 else f'The {count - 1} seeds'} before {seed} will run too, unless stored already.")
    return ["--seeds", str(count)]
