"""An experiment as a file: what ``vpbench run`` and ``vpbench tune`` can say, in TOML.

Keys are the commands' options with ``_`` for ``-``; values are as there, or lists where the commands take commas; paths are meant
from the file's folder. ``suite`` may name several, a method may be a table with settings of its own, and with ``[tune]`` settings
are searched first::

    title = "Prompts and adapters on two suites"
    suite = ["vtab1k", "fgvc"]
    backbone = ["vit-b16-in21k", "vit-b16-mae"]
    methods = ["linear", { name = "vpt", options = { prompt_length = 50 }, recipe = { lr = 0.5 } }]
    seeds = 3
    timeout = "2h"

    [set]
    recipe.epochs = 20

    [tune]
    space = "vpt-grid"
    methods = ["vpt"]
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vpbench.api import plan_request, plan_tuning
from vpbench.core.cards import by_line, read_toml
from vpbench.core.errors import UsageError, VpbenchError
from vpbench.core.names import unknown
from vpbench.core.user_folders import user_path
from vpbench.models.registry import expand_labels, resolve_method
from vpbench.planning.suites import suite_card
from vpbench.planning.user_settings import TASK
from vpbench.search.space import read_space
from vpbench.spec.budget import Budget
from vpbench.spec.command_words import words_of
from vpbench.spec.flag import option_keys
from vpbench.spec.parsing import words
from vpbench.spec.recipe import Recipe
from vpbench.spec.request import Request
from vpbench.spec.run_options import RunOptions
from vpbench.store.store import DEFAULT_FOLDER

if TYPE_CHECKING:
    from vpbench.execution.callbacks import Callback

OWN_KEYS = ("title", "results", "methods", "suite", "set", "tune")  # beside the options of the commands
OF_A_METHOD = ("name", "options", "recipe")
NOT_TUNED = ("noise", "scales", "rerun")  # options that 'vpbench tune' does not have
_SCHEME = re.compile(r"[A-Za-z]{2,}:")  # of what is no path


@dataclass(frozen=True)
class Step:
    """One command of an experiment; without a budget for a search it is ``vpbench run``."""

    request: Request
    options: RunOptions
    budget: Budget | None = None

    def line(self, results: Path = DEFAULT_FOLDER) -> str:
        """The command for a shell."""
        given = ["vpbench", "run" if self.budget is None else "tune", *words_of(self.request)]
        given += [*(() if self.budget is None else words_of(self.budget)), *words_of(self.options)]
        return shlex.join([*given, *(() if results == DEFAULT_FOLDER else ("--results", str(results)))])


@dataclass(frozen=True)
class Experiment:
    """A file that has been read.

    Attributes:
        steps: the commands that do the same, one after the other.
        results: the results folder that the file names, if it does.
    """

    file: Path
    steps: tuple[Step, ...]
    results: Path | None = None

    def changed(self, request: Mapping[str, Any], options: Mapping[str, Any]) -> Experiment:
        """The same with other values of some fields."""
        steps = [
            replace(step, request=step.request.model_copy(update=request), options=step.options.model_copy(update=options))
            for step in self.steps
        ]
        return replace(self, steps=tuple(steps))

    def check(self, results: Path, callback: Callback | None = None, *, without_data: bool = False) -> None:
        """Plan every step, and run nothing.

        Args:
            without_data: whether data sets that are not there are counted by their cards.

        Raises:
            VpbenchError: with everything that cannot work, in one line.
        """
        problems: dict[str, VpbenchError] = {}
        for step in self.steps:
            try:
                if step.budget is None:
                    plan_request(step.request, step.options, results, callback, without_data=without_data)
                else:
                    plan_tuning(step.request, step.budget, step.options, results, callback, without_data=without_data)
            except VpbenchError as error:
                problems.setdefault(str(error), error)
        if problems:
            raise type(next(iter(problems.values())))(f"{self.file}: {' '.join(problems)}")


def read_experiment(given: str | Path) -> Experiment:
    """Read and check a file; data are not looked at, and weights have to be there.

    Raises:
        UsageError: when there is no such file, or with line and key of everything that is wrong in it, in one line.
    """
    file = user_path(given)
    if not file.is_file():
        raise UsageError(f"there is no experiment file {given}; options begin with --, see vpbench run --help.")
    values = read_toml(file)
    reader = _Reader(file.absolute().parent, values)
    steps = reader.steps()
    if reader.problems:
        raise UsageError(f"{file}: {by_line(file.read_text(encoding='utf-8'), reader.problems)}")
    if not values.keys() - {"title", "results"}:
        raise UsageError(f"{file} says nothing to run: write methods, a suite or data into it (docs/experiments.md).")
    whole = {"experiment": file.read_text(encoding="utf-8")}
    return Experiment(file, tuple(steps), reader.results).changed({}, whole)


@dataclass(frozen=True)
class _Entry:
    """A method of a file, with the settings that are its own."""

    label: str
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def method(self) -> str:
        return self.label.partition(":")[0]


class _Reader:
    """Reads what a file says, and goes on where something is wrong.

    Attributes:
        problems: key and message of each.
    """

    def __init__(self, folder: Path, values: Mapping[str, Any]) -> None:
        self.problems: list[tuple[tuple[str | int, ...], str]] = []
        self._folder, self._values = folder, values
        results = self._typed("results", str, "a folder")
        self.results = None if results is None else Path(self._path(results))

    def steps(self) -> list[Step]:
        """The commands; of no use when there are problems."""
        self._typed("title", str, "a text")
        request = self._fields(Request, self._values, (), OWN_KEYS, others=(RunOptions,))
        options = self._fields(RunOptions, self._values, (), OWN_KEYS, others=(Request,))
        entries, suites, settings = self._methods(), self._suites(request), self._settings()
        budget, is_tuned = self._tuning(request)
        self._check_settings(settings, entries)
        self._check_weights(request.get("weights"))
        if self.problems:
            return []
        found = []
        for suite in suites or (None,):
            for part, tuned in _commands(entries, budget, is_tuned):
                asked = {**request, "seeds": 1} if tuned is not None else request  # those of final runs are the budget's
                own = _settings_for(part, settings) if part else settings
                labels = tuple(entry.label for entry in part) or None
                step = Request.from_keywords(**{**asked, "suite": suite, "methods": labels, "settings": own})
                found.append(Step(step, RunOptions.from_keywords(**options), tuned))
        return found

    def _fields(
        self, kind: type[Any], values: Mapping[str, Any], at: tuple[str, ...], also: Iterable[str] = (),
        others: Sequence[type[Any]] = (),
    ) -> dict[str, Any]:  # fmt: skip
        """The fields of a model that a table has, by their names.

        Args:
            at: keys of the table.
            also: keys that are read elsewhere.
            others: models whose options the table has, too.
        """
        own, known = option_keys(kind), option_keys(kind, *others)
        found = {}
        for key, value in values.items():
            if key in also:
                continue
            if key in own:
                name = own[key]
                with self._noting((*at, key), f"{name}: ", f"{'.'.join((*at, key))}: "):
                    found[name] = getattr(kind.from_keywords(**{name: self._value(name, value)}), name)
            elif key not in known and (not others or kind is Request):  # reported once
                self._note(
                    (*at, key), str(unknown("key", ".".join((*at, key)), [".".join((*at, each)) for each in (*known, *also)]))
                )
        return found

    def _value(self, name: str, value: Any) -> Any:
        if name in ("data", "data_root") or (name == "weights" and value != "random"):
            return [self._path(each) for each in value] if isinstance(value, list) else self._path(value)
        return self._path(value) if name == "space" and str(value).endswith(".toml") else value

    def _methods(self) -> list[_Entry]:
        given = self._values.get("methods", [])
        listed = words(given) if isinstance(given, str) else given
        if not isinstance(listed, list):
            self._note(("methods",), "methods: write a list of names, or of tables with a name")
            return []
        if not listed and "methods" in self._values:
            self._note(("methods",), "methods: it names no method; leave it out for those of the suite")
        return [entry for place, each in enumerate(listed) for entry in self._entries(each, ("methods", place))]

    def _entries(self, given: Any, at: tuple[str | int, ...]) -> Iterator[_Entry]:
        """The methods that one entry stands for."""
        table = given if isinstance(given, dict) else {"name": given}
        if wrong := [key for key in table if key not in OF_A_METHOD]:
            self._note((*at, wrong[0]), str(unknown("key of a method", wrong[0], OF_A_METHOD)))
        if not isinstance(table.get("name"), str):
            self._note(at, f"{'.'.join(map(str, at))}: write a name, or a table with a name")
            return
        options, recipe = (table.get(key, {}) for key in ("options", "recipe"))
        for key, value in (("options", options), ("recipe", recipe)):
            if not isinstance(value, dict):
                self._note((*at, key), f"{key}: write a table, {{ name = value }}")
                return
        self._check_recipe(recipe, (*at, "recipe"))
        with self._noting(at):
            for label in expand_labels([self._method_path(table["name"])]):
                resolve_method(label, options)
                method = label.partition(":")[0]
                own = {f"{method}.{name}": value for name, value in options.items()}
                yield _Entry(label, {**own, **{f"{method}.recipe.{name}": value for name, value in recipe.items()}})

    def _method_path(self, label: str) -> str:
        path, ending, preset = label.rpartition(".py")
        return self._path(f"{path}.py") + preset if ending and (not preset or preset.startswith(":")) else label

    def _suites(self, request: Mapping[str, Any]) -> list[str]:
        given = self._values.get("suite", [])
        listed = words(given) if isinstance(given, str) else given
        if not isinstance(listed, list) or not all(isinstance(name, str) for name in listed):
            self._note(("suite",), "suite: write a name, or a list of names")
            return []
        names = [self._path(name) if name.endswith(".toml") else name for name in listed]
        for name in names:
            with self._noting(("suite",)):
                card = suite_card(name)
                for dataset in request.get("datasets") or ():
                    if dataset not in card.datasets:
                        self._note(("datasets",), str(unknown(f"data set of suite {name}", dataset, card.datasets)))
        return names

    def _settings(self) -> dict[str, Any]:
        """``[set]`` by the names of ``--set``."""
        found: dict[str, Any] = {}
        for first, table in self._typed("set", dict, "a table, [set]", {}).items():
            if not isinstance(table, dict):
                found[first] = table
                continue
            for name, value in table.items():
                if name == "recipe" and isinstance(value, dict):
                    found.update({f"{first}.recipe.{key}": each for key, each in value.items()})
                else:
                    found[f"{first}.{name}"] = value
        return found

    def _check_settings(self, settings: Mapping[str, Any], entries: Sequence[_Entry]) -> None:
        methods = {entry.method for entry in entries}
        for name, value in settings.items():
            at, parts = ("set", *name.split(".")), name.split(".")
            with self._noting(at):
                if parts[0] == TASK and len(parts) == 2:
                    continue  # the suite's task knows its options, when the runs are planned
                if parts[0] == "recipe" or (len(parts) == 3 and parts[1] == "recipe"):
                    self._check_recipe({parts[-1]: value}, at[:-1])
                elif len(parts) == 2:
                    resolve_method(parts[0], {parts[1]: value})
                else:
                    raise UsageError(f"set.{name}: write METHOD.OPTION = VALUE, or recipe.FIELD = VALUE")
                if parts[0] != "recipe" and methods and parts[0] not in methods:
                    raise UsageError(f"set.{name}: {parts[0]} is not among the methods {', '.join(sorted(methods))}")

    def _check_weights(self, given: str | None) -> None:
        if given not in (None, "random") and not Path(given).exists():
            self._note(("weights",), f"weights: there is no file or folder {given}")

    def _check_recipe(self, recipe: Mapping[str, Any], at: tuple[str | int, ...]) -> None:
        for name in recipe:
            if name not in Recipe.model_fields:
                self._note((*at, name), str(unknown("recipe field", name, Recipe.model_fields)))

    def _tuning(self, request: dict[str, Any]) -> tuple[Budget | None, Callable[[_Entry], bool]]:
        """The budget of the search, and which methods have one."""
        table = self._typed("tune", dict, "a table, [tune]", {})
        if "tune" not in self._values:
            return None, lambda entry: False
        fields = self._fields(Budget, table, ("tune",), ("methods",))
        fields.setdefault("seeds", request.get("seeds"))
        given = table.get("methods")
        names = words(given) if isinstance(given, str) else given
        with self._noting(("tune", "space")):
            read_space(fields.get("space", Budget().space))
        if names is None:
            for key in set(NOT_TUNED) & self._values.keys():
                self._note(
                    (key,), f"{key}: a search has no such option; leave it out, or name the methods to tune in tune.methods"
                )
        elif not isinstance(names, list):
            self._note(("tune", "methods"), "tune.methods: write a list of names")
        return Budget.from_keywords(**fields), lambda entry: names is None or entry.label in names or entry.method in names

    def _typed(self, key: str, kind: type[Any], wanted: str, default: Any = None) -> Any:
        value = self._values.get(key, default)
        if key in self._values and not isinstance(value, kind):
            self._note((key,), f"{key}: write {wanted}")
            return default
        return value

    def _path(self, given: Any) -> Any:
        """A path from the file's folder, as short as can be; what is no text is left to the field."""
        if not isinstance(given, str) or _SCHEME.match(given):
            return given
        path = self._folder / user_path(given)
        return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)

    def _note(self, at: tuple[str | int, ...], what: str) -> None:
        self.problems.append((at, what))

    @contextmanager
    def _noting(self, at: tuple[str | int, ...], start: str = "", instead: str = "") -> Iterator[None]:
        """A user's mistake in the block is a problem of the file; ``start`` of its message is replaced."""
        try:
            yield
        except UsageError as error:
            said = str(error)
            self._note(at, instead + said.removeprefix(start) if start and said.startswith(start) else said)


def _commands(
    entries: Sequence[_Entry], budget: Budget | None, is_tuned: Callable[[_Entry], bool]
) -> Iterator[tuple[list[_Entry], Budget | None]]:  # fmt: skip
    """The methods of each command, and its budget; no methods stand for those of the suite."""
    if not entries:
        yield [], budget
    for group in _groups(entries):
        for part, own in (([one for one in group if is_tuned(one)], budget), ([one for one in group if not is_tuned(one)], None)):
            if part:
                yield part, own


def _groups(entries: Sequence[_Entry]) -> list[list[_Entry]]:
    """As few commands as can be: in one command a method has one set of settings."""
    groups: list[list[_Entry]] = []
    for entry in entries:
        if any(entry in group for group in groups):
            continue
        fitting = (group for group in groups if all(_go_together(entry, other) for other in group))
        group = next(fitting, None)
        if group is None:
            groups.append(group := [])
        group.append(entry)
    return groups


def _go_together(one: _Entry, other: _Entry) -> bool:
    return one.method != other.method or (one.label != other.label and one.settings == other.settings)


def _settings_for(entries: Sequence[_Entry], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a command: those for all methods, and those of its own."""
    methods = {"recipe", TASK, *(entry.method for entry in entries)}
    found = {name: value for name, value in settings.items() if name.partition(".")[0] in methods}
    for entry in entries:
        found.update(entry.settings)
    return found
