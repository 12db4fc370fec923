"""Options of commands, from the fields of models: declared once for the command line and the Python interface."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vpbench.cli.completion import completes

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

    from vpbench.core.frozen_model import FrozenModel
    from vpbench.spec.flag import Flag

Results = Annotated[Path, typer.Option(metavar="FOLDER", help="Results folder.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show the plan and its expected time, and stop.")]
AsJson = Annotated[bool, typer.Option("--json", help="The plan or the outcome as JSON on stdout.")]

RESULTS = Path("results/runs")


def number(option: str, least: int | None, help: str, metavar: str = "N", **more: Any) -> Any:
    """An option that takes a whole number, and says so in our words; typer's are those of the library that it uses."""

    def parse(given: Any) -> int:
        from vpbench.core.errors import UsageError
        from vpbench.core.names import shortened
        from vpbench.spec.parsing import whole_number

        try:
            return whole_number(given, least)
        except ValueError as error:
            raise UsageError(f"{option} {shortened(str(given))}: {error}.") from None

    return typer.Option(option, parser=parse, min=least, metavar=metavar, help=help, **more)


def takes(without: tuple[str, ...] = (), **models: str) -> Callable[[Callable[..., None]], OptionsCommand]:
    """A decorator for a command that takes whole models: each field with a :class:`~vpbench.spec.flag.Flag` is an option.

    Args:
        without: fields that are no options of this command, ``model.field``.
        models: by the command's parameter, where the model is: ``request="vpbench.spec.request.Request"``. It is imported when
            the command is used, since pydantic takes longer to import than ``vpbench --help`` should take.
    """
    return lambda function: OptionsCommand(function, models, without)


class OptionsCommand:
    """A command function whose signature has the models' options in place of the models."""

    def __init__(self, function: Callable[..., None], models: dict[str, str], without: tuple[str, ...]) -> None:
        functools.update_wrapper(self, function, assigned=("__module__", "__name__", "__qualname__", "__doc__"))
        self._function, self._models, self._without = function, models, without

    def _fields(self, parameter: str) -> Iterator[tuple[str, FieldInfo, Flag]]:
        """The options of a model."""
        from vpbench.spec.flag import flags_of

        for name, field, flag in flags_of(self._model(parameter)):
            if f"{parameter}.{name}" not in self._without:
                yield name, field, flag

    def _model(self, parameter: str) -> type[FrozenModel]:
        module, _, name = self._models[parameter].rpartition(".")
        model: type[FrozenModel] = getattr(import_module(module), name)
        return model

    @functools.cached_property
    def __signature__(self) -> inspect.Signature:
        parameters = []
        for name, own in inspect.signature(self._function, eval_str=True, locals=self._placeholders()).parameters.items():
            if name in self._models:
                parameters += [_parameter(*field) for field in self._fields(name)]
            else:
                parameters.append(own.replace(kind=inspect.Parameter.KEYWORD_ONLY))
        return inspect.Signature(parameters)

    def _placeholders(self) -> dict[str, Any]:
        """Names in the function's annotations that are imported for type checkers alone."""
        return {place.rpartition(".")[2]: Any for place in self._models.values()}

    @property
    def __annotations__(self) -> dict[str, Any]:  # type: ignore[override]
        return {name: parameter.annotation for name, parameter in self.__signature__.parameters.items()}

    def __call__(self, **given: Any) -> None:
        """Read what was given, and call the command."""
        models = {}
        for parameter in self._models:
            values = {}
            for name, _, _ in self._fields(parameter):
                value = given.pop(name, None)
                if value is not None and value != []:
                    values[name] = value
            models[parameter] = self._model(parameter).from_keywords(**values)
        self._function(**models, **given)


def _parameter(name: str, field: FieldInfo, flag: Flag) -> inspect.Parameter:
    """A field as typer takes it."""
    words = flag.spelled(name)
    shown = flag.shown is not None
    shared: dict[str, Any] = {
        "metavar": flag.metavar,
        "help": field.description,
        "show_default": shown,
        "autocompletion": completes(name),
    }
    option = number(words, flag.least, **shared) if flag.kind is int else typer.Option(words, **shared)
    default = False if flag.kind is bool else flag.shown
    kind: Any = list[flag.kind] if flag.repeatable else flag.kind  # type: ignore[name-defined]
    annotation = Annotated[kind if default is not None else kind | None, option]  # type: ignore[valid-type]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
