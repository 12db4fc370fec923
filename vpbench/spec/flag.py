"""How the command line and the Python interface take a field of a pydantic model, declared beside the field itself."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from pydantic import BaseModel, BeforeValidator, GetCoreSchemaHandler
from pydantic.fields import FieldInfo

from vpbench.core.names import unknown
from vpbench.spec.parsing import names_of, whole_number, words

Function = TypeVar("Function", bound=Callable[..., Any])


@dataclass(frozen=True)
class Flag:
    """An option of the command line, as metadata of a field: ``Annotated[int, Flag(kind=int, metavar="N")]``.

    Its help text is the field's description. An option that is left out leaves the field its default.

    Attributes:
        name: of the option; None: the field's name with dashes.
        kind: what one value is read as: str, int or bool.
        metavar: what stands for the value in the help; None: its kind.
        parse: from what was given (a list of it where ``repeatable``) to the field's value; None: as it is.
        shown: the default as a user would write it, shown in the help; None: the description says what the default is.
        least: smallest number that is allowed.
        repeatable: whether the option may be given several times.
    """

    name: str | None = None
    kind: type = str
    metavar: str | None = None
    parse: Callable[[Any], Any] | None = None
    shown: Any = None
    least: int | None = None
    repeatable: bool = False

    def spelled(self, field: str) -> str:
        """The option of a field: ``--image-size`` of ``image_size``."""
        return self.name or f"--{field.replace('_', '-')}"

    def read(self, given: Any) -> Any:
        """A text as on the command line, ``"2h"``, ``"0,2"`` or ``"linear,vpt"``; anything else as it is. A number is checked.

        Raises:
            UsageError: for a text that the command line refuses.
            ValueError: for what is no such number, or no names.
        """
        if self.kind is int and self.parse is None and given is not None:
            return whole_number(given, self.least)
        if getattr(self.parse, "func", self.parse) in (words, names_of) and not isinstance(given, str | Iterable | None):
            raise ValueError("write names, as a list or as a text with commas")
        texts = [given] if self.repeatable and isinstance(given, str) else given
        is_text = isinstance(given, str) or (self.repeatable and isinstance(given, list))
        return self.parse(texts) if self.parse is not None and is_text else given

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> Any:
        """What pydantic makes of the field: texts are read first, wherever they come from."""
        return BeforeValidator(self.read).__get_pydantic_core_schema__(source, handler)


def option_keys(*models: type[BaseModel]) -> dict[str, str]:
    """The fields that are options of the command line, by the options' names with ``_`` for ``-``: ``set`` of ``settings``."""
    return {
        flag.spelled(name).removeprefix("--").replace("-", "_"): name for model in models for name, _, flag in flags_of(model)
    }


def flags_of(model: type[BaseModel]) -> Iterator[tuple[str, FieldInfo, Flag]]:
    """The fields of a model that are options of the command line."""
    for name, field in model.model_fields.items():
        for flag in field.metadata:
            if isinstance(flag, Flag):
                yield name, field, flag


def keywords_of(*models: type[BaseModel]) -> Callable[[Function], Function]:
    """A decorator for a function with ``**fields``: signature and docstring list the fields of the models instead."""

    def document(function: Function) -> Function:
        signature = inspect.signature(function)
        own = [given for given in signature.parameters.values() if given.kind is not inspect.Parameter.VAR_KEYWORD]
        fields = {
            name: field for model in models for name, field in model.model_fields.items() if name not in signature.parameters
        }
        keywords = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=field.get_default(call_default_factory=True))
            for name, field in fields.items()
        ]
        lines = [f"    {name}: {field.description}" for name, field in fields.items()]
        function.__doc__ = "\n".join([inspect.getdoc(function) or "", "", "Keyword arguments:", *lines])
        setattr(function, "__signature__", signature.replace(parameters=[*own, *keywords]))  # noqa: B010 - mypy knows none
        return function

    return document


def names_mistakes(function: Function) -> Function:
    """A decorator for a function of the Python interface: an argument that it does not have is an error with a suggestion.

    Raises:
        UsageError: when the function is called with such an argument.
    """
    known = list(inspect.signature(function).parameters)

    @functools.wraps(function)
    def checked(*values: Any, **named: Any) -> Any:
        for name in named:
            if name not in known:
                raise unknown(f"argument of vpbench.{function.__name__}", name, known)
        return function(*values, **named)

    return cast(Function, checked)
