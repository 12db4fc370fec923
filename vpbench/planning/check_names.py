"""The names in a request: whether there is all that it asks for, before anything is read. Imports no torch."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from pathlib import Path

from vpbench.backbones.named import check_backbone_name
from vpbench.core.errors import UsageError
from vpbench.core.hub import HubData, is_on_hub
from vpbench.core.names import unknown
from vpbench.core.user_folders import user_path
from vpbench.data.catalog import dataset_card
from vpbench.data.class_names import normalised
from vpbench.data.target import TARGETS
from vpbench.models.registry import expand_labels, resolve_method
from vpbench.planning.suites import (
    SuiteCard,
    default_methods,
    method_options,
    recipe_entries,
    resolve_recipe,
    suite_card,
    suite_name,
)
from vpbench.planning.user_settings import split_settings, task_settings
from vpbench.spec.request import DEFAULT_SUITE, Request
from vpbench.spec.run_spec import DEFAULT_TASK
from vpbench.tasks import resolve_task, task_class


def check_names(request: Request) -> None:
    """Methods, presets, options, suite, data sets, task, fields of the recipe, and backbones that have a card.

    A mistyped one is an error in an instant, where opening data and importing torch would take a while first.

    Raises:
        UsageError: for an unknown name, with a suggestion, a value that does not fit, or options that exclude each other.
    """
    asked, suite = suite_of(request)
    with warnings.catch_warnings(action="ignore"):  # they are given when the request is resolved
        labels = methods_of(request, suite)
    for name in request.backbone or (suite.backbone,):
        check_backbone_name(name)
    check_datasets(request, suite, asked)
    resolve_task(suite.task, {**suite.task_options, **task_settings(request)})
    options, overrides = split_settings(request.model_copy(update={"methods": tuple(labels)}))
    dataset = next(iter(own_paths(request) or request.datasets or suite.datasets))
    for label in labels:
        method, _, preset = label.partition(":")
        entries = recipe_entries(method, suite.part_of or asked, dataset, preset or None, suite.task)
        resolve_method(label, {**method_options(entries), **options.get(method, {})})
        resolve_recipe(suite, entries, {**overrides[""], **overrides.get(method, {})})


def suite_of(request: Request) -> tuple[str, SuiteCard]:
    """Name and card of the suite that a request names, or leaves to the default."""
    asked = request.suite or (task_class(request.task or DEFAULT_TASK).own_suite if request.data else DEFAULT_SUITE)
    name = suite_name(asked)
    suite = suite_card(name)
    if request.task not in (None, suite.task):
        task_class(request.task or "")  # an unknown name gets its own error
        raise UsageError(f"the suite {name} is for {suite.task}: leave out --task {request.task}, or choose another suite.")
    return name, suite


def methods_of(request: Request, suite: SuiteCard) -> list[str]:
    """Labels of the methods that a request names, or leaves to its suite.

    Raises:
        UsageError: when it names none, or for an unknown group.
    """
    return expand_labels(default_methods(suite) if request.methods is None else request.methods)


def check_datasets(request: Request, suite: SuiteCard, suite_name: str) -> None:
    """
    Args:
        suite: of the request; ``suite_name`` is what it was asked for by.

    Raises:
        UsageError: for a data set that the suite does not have, or an option that does not go with the suite.
    """
    if request.data:
        if not suite.is_own:
            raise UsageError("--suite and --data exclude each other: a suite brings its own data.")
        if request.datasets:
            raise UsageError("--datasets and --data exclude each other: --datasets chooses among those of a suite.")
        return
    for option in ("columns", "background"):
        if getattr(request, option):
            raise UsageError(f"--{option} goes with --data; published data sets have theirs on their cards.")
    if request.skip_unreadable and not suite.data:
        raise UsageError("--skip-unreadable is for images of your own; a published data set has to be complete.")
    names = request.datasets or suite.datasets
    for name in names:
        if name not in suite.datasets:
            raise unknown(f"dataset of suite {suite_name}", name, suite.datasets)
    if not names:
        raise UsageError(f"the suite {suite_name} is for your own images: say --data PATH.")
    _check_targets([name for name in names if name not in suite.data], suite)


def _check_targets(names: Iterable[str], suite: SuiteCard) -> None:
    """
    Raises:
        UsageError: for a data set whose images are not labelled as the suite's task needs it.
    """
    target = task_class(suite.task).target
    for name in names:
        if (found := dataset_card(name).target) != target:
            raise UsageError(f"{name} has {TARGETS[found]}, and {suite.task} needs {TARGETS[target]}.")


def own_paths(request: Request) -> dict[str, str]:
    """The user's own data by the name of each.

    Raises:
        UsageError: for two of one name, or one twice.
    """
    found: dict[str, str] = {}
    for path in request.data or ():
        name = own_name(Path(path))
        if name in found and user_path(path).resolve() == user_path(found[name]).resolve() and not is_on_hub(path):
            raise UsageError(f"--data {found[name]} and --data {path} are the same data: name them once.")
        if name in found:
            raise UsageError(f"--data {path} and --data {found[name]} would both be called '{name}': rename one of them.")
        found[name] = path
    return found


def own_name(path: Path) -> str:
    """What a user's own data is called: a folder by its name, a file by its name without the ending, a data set of the hub by
    its own and its configuration's."""
    if is_on_hub(path):
        return HubData.parse(str(path)).name
    place = path if path.name not in ("", "..") else path.resolve()
    return normalised(place.stem if place.is_file() else place.name, "--data")
