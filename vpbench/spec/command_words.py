"""From models back to the words of a command line: what :class:`vpbench.spec.flag.Flag` reads, written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from vpbench.spec.flag import Flag, flags_of
from vpbench.spec.parsing import text_of


def words_of(model: BaseModel) -> list[str]:
    """The options that make the model from its defaults; a field that is no option is left out."""
    words: list[str] = []
    for name, field, flag in flags_of(type(model)):
        value = getattr(model, name)
        if value != field.get_default(call_default_factory=True):
            option = flag.spelled(name)
            words += [word for given in _given(value, flag) for word in (option, *given)]
    return words


def _given(value: Any, flag: Flag) -> list[tuple[str, ...]]:
    """What stands behind the option, each time that it is given."""
    if flag.kind is bool:
        return [()]
    if isinstance(value, Mapping):
        pairs = [f"{name}={text_of(each)}" for name, each in value.items()]
        return [(pair,) for pair in pairs] if flag.repeatable else [(",".join(pairs),)]
    if flag.repeatable:
        return [(str(each),) for each in value]
    if isinstance(value, tuple):
        return [(",".join(map(str, value)) or "none",)]
    if value is None:
        return [("never",)]
    return [(f"{value:.15g}" if isinstance(value, float) else str(value),)]
