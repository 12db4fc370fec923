"""Methods by name. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, get_args

from pydantic import ValidationError

from vpbench.core.cards import first_error
from vpbench.core.errors import UsageError
from vpbench.core.names import unknown
from vpbench.core.plugins import Registry, subclass_in
from vpbench.core.user_files import add_file
from vpbench.interface import Method
from vpbench.interface.config import renamed_options
from vpbench.interface.method import Group
from vpbench.spec.run_spec import MethodSpec


def method_registry() -> Registry[type[Method[Any]]]:
    """Every file in ``methods/``, here and in the user's folders, and the entry points of the group ``vpbench.methods``."""
    return Registry("method", "vpbench.methods", subclass_in(Method), group="vpbench.methods", folder="methods")


def method_class(name: str) -> type[Method[Any]]:
    """The class of a method.

    Raises:
        UsageError: for an unknown name, with a suggestion.
    """
    return method_registry().get(name)


def expand_labels(labels: Sequence[str]) -> list[str]:
    """Labels of methods, each once, with ``all`` and ``group:NAME`` replaced by the methods that they stand for, and a path by
    the name of its file.

    Raises:
        UsageError: when there is no label, or for an unknown group or a file that is not there.
    """
    if not labels:
        raise UsageError("--methods names no method; vpbench list methods shows them.")
    found: list[str] = []
    for label in labels:
        group = label.removeprefix("group:") if label.startswith("group:") else None
        if group is not None and group not in get_args(Group):
            raise unknown("group of methods", group, get_args(Group))
        if label == "all" or group is not None:
            names = method_registry().names()
            found += [name for name in names if group is None or method_class(name).group == group]
        else:
            found.append(_by_name(label))
    return list(dict.fromkeys(found))


def _by_name(label: str) -> str:
    """``my_prompts:small`` for ``./my_prompts.py:small``; the file is a method from then on."""
    path, ending, preset = label.rpartition(".py")
    if not ending or (preset and not preset.startswith(":")):
        return label
    return add_file(f"{path}.py", "methods", "--methods") + preset


def resolve_method(label: str, settings: Mapping[str, Any] | None = None) -> MethodSpec:
    """Settle every option of a method.

    Args:
        label: ``name`` or ``name:preset``; the name can be the path of a file, ``./my_prompts.py``.
        settings: options that override the preset's and the defaults.

    Raises:
        UsageError: for an unknown method, preset or option, or a value of the wrong kind.
    """
    name, colon, preset = _by_name(label).partition(":")
    method = method_class(name)
    if colon and preset not in method.presets:
        raise unknown(f"preset of {name}", preset, method.presets)
    values = {**(method.presets[preset].settings if preset else {}), **(settings or {})}
    former = method.Config.former_names()
    for option in values:
        if option not in former and option not in method.Config.model_fields:
            raise unknown(f"option of {name}", option, method.Config.model_fields)
    try:
        config = method.Config.model_validate(values)
    except ValidationError as error:
        raise UsageError(f"{name}.{first_error(error)}") from error
    return MethodSpec(
        name=name, preset=preset or None, version=method.version, config=config.model_dump(mode="json"),
        hashed_names={new: old for old, new in former.items()},
    )  # fmt: skip


def current_options(method: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """A method's options, as a row has them, by their present names; those of an unknown method as they are."""
    if not method_registry().has(method):
        return dict(options)
    return renamed_options(options, method_class(method).Config.former_names())
